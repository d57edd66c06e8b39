#!/usr/sbin/nbdkit python
# SPDX-License-Identifier: Apache-2.0
"""
obd - layered images as NBD exports: nbdkit's callbacks, put on a Device.

    nbdkit python obd.py config=IMAGE [config=IMAGE ...] [export=NAME]
    nbdkit python obd.py dir=DIRECTORY

One device serves every connection to an export. This file decides nothing
about formats, layers or caching; it only says NBD.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from itertools import islice
from pathlib import Path

import nbdkit  # type: ignore[import-not-found]

try:
    import obdengine
    from obdengine import config as image_config
    from obdengine.errors import ObdError, SourceMissing, UsageError
except Exception as missing:  # CoreError, where the compiled part does not fit
    obdengine = None
    UNUSABLE = missing
    ObdError = SourceMissing = UsageError = ValueError

API_VERSION = 2

KEYS = ("config", "dir", "export", "readonly")
LATER_KEYS = ("control", "service", "upper")

# What one reply to "block status" may hold. nbdkit takes up to a million and
# the client asks again from where the reply ended, so this only bounds how
# long one request keeps the interpreter.
EXTENTS_PER_REPLY = 4096

MAX_REQUEST = 32 << 20

# nbdkit runs this file as __main__ and forgets its name afterwards.
HERE = Path(__file__).resolve().parent

images: list[str] = []
directory: Path | None = None
only_name: str | None = None


# -- Errors. nbdkit prints whatever traceback.format_exception returns: for
# what a person can mend that is one sentence, and the rest with nbdkit -v.

_full_traceback = traceback.format_exception


def _sentence(kind, value=None, trace=None, **options):
    lines = _full_traceback(kind, value, trace, **options)
    if not isinstance(value, (ObdError, OSError, ImportError)):
        return lines
    nbdkit.debug("".join(lines))
    return [str(value)]


traceback.format_exception = _sentence


def failed(error):
    """Give the client the errno of error, and return error to be raised."""
    nbdkit.set_error(error.errno or errno.EIO)
    return error


def how_to_import():
    """Return a sentence that says what makes `import obdengine` work here."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not isinstance(UNUSABLE, ImportError):
        return f"the Python {version} inside nbdkit cannot use obdengine: {UNUSABLE}"
    if UNUSABLE.name == "_cffi_backend":
        cure = "run: apt-get install python3-cffi-backend"
    elif (HERE.parent / "obdengine" / "__init__.py").exists():
        packages = HERE.parent / f".venv/lib/python{version}/site-packages"
        places = [HERE.parent, *([packages] if packages.is_dir() else [])]
        cure = f"set PYTHONPATH={':'.join(map(str, places))}"
    else:
        cure = f"run: python{version} -m pip install obdengine"
    return (
        f"the Python {version} inside nbdkit cannot import obdengine ({UNUSABLE}); "
        f"{cure}, or start it by: obd serve IMAGE"
    )


# -- Exports.


class Export:
    """An image that is opened by its first client and shared by all."""

    def __init__(self, name, layers):
        """Remember what to open; nothing is read yet."""
        self.name = name
        self.layers = layers
        self.users = 0
        self.device = None
        self.opening = threading.Lock()

    def open(self):
        """Open the device unless another client did."""
        with self.opening:
            if self.device is None:
                self.device = obdengine.open(self.layers)

    def close(self):
        """Close the device, if there is one."""
        with self.opening:
            if self.device is not None:
                self.device.close()
                self.device = None


exports: dict[str, Export] = {}
exports_lock = threading.Lock()


def acquire(name):
    """Return the export of that name, opened, with one more user."""
    with exports_lock:
        export = exports.get(name)
        if export is None:
            export = exports[name] = Export(name, layers_of(name))
        export.users += 1
    try:
        export.open()
    except BaseException:
        release(export)
        raise
    return export


def release(export):
    """Take one user off; the last one out closes the device."""
    with exports_lock:
        export.users -= 1
        last = export.users == 0
        if last:
            del exports[export.name]
    if last:
        export.close()


def layers_of(name):
    """Return the layer files of the export of that name, bottom first."""
    if directory is None:
        return image_config.resolve(images).layers
    image = find_image(name)
    if image is None:
        raise SourceMissing(f"{directory}: there is no image {name!r}")
    return image_config.resolve([str(image)]).layers


def find_image(name):
    """Return the image that a client calls name, or None."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return None
    for image in (f"{name}.obd", f"{name}.lsmt", f"{name}/config.v1.json"):
        if (directory / image).is_file():
            return directory / image
    return None


def image_names():
    """Return the names of the images in dir=, sorted."""
    found = set()
    for entry in directory.iterdir():
        name = entry.stem if entry.suffix in (".obd", ".lsmt") else entry.name
        if find_image(name) is not None:
            found.add(name)
    return sorted(found)


# -- Life of the server.


def thread_model():
    """Let nbdkit send requests at any time: a Device is thread-safe."""
    return nbdkit.THREAD_MODEL_PARALLEL


def dump_plugin():
    """Print what `obd doctor` wants to know."""
    if obdengine is None:
        print(f"obdengine_error={how_to_import()}", flush=True)
    else:
        print(f"obdengine={Path(obdengine.__file__).parent}", flush=True)


def config(key, value):
    """Take one key=value of the command line."""
    global directory, only_name
    if obdengine is None:
        raise ImportError(how_to_import())
    if key == "config":
        add_image(value)
    elif key == "dir":
        directory = Path(value).resolve()
    elif key == "export":
        only_name = value
    elif key == "readonly":
        check_readonly(value)
    elif key in LATER_KEYS:
        raise UsageError(f"{key}= is not in this version, which only reads")
    else:
        raise UsageError(f"unknown key {key}=, the keys are {', '.join(KEYS)}")


def add_image(name):
    """Take one more config=, a file on this machine."""
    if "://" in name or name.startswith("oci:"):
        raise UsageError(f"{name}: this version opens local images only")
    # nbdkit changes to / when it goes into the background.
    images.append(os.path.abspath(name))  # noqa: PTH100


def check_readonly(value):
    """Accept what makes an export read-only, refuse the rest."""
    if value.lower() not in ("1", "true", "yes", "on"):
        raise UsageError(f"readonly={value}: this version only reads, say true")


def config_complete():
    """Check what config() has gathered."""
    if obdengine is None:
        raise ImportError(how_to_import())
    if bool(images) == bool(directory):
        raise UsageError("give either config=IMAGE (bottom first) or dir=DIRECTORY")
    if directory and only_name is not None:
        raise UsageError("export= goes with config=, dir= names exports by file")


def get_ready():
    """Open everything once, so that what is wrong is said before the fork."""
    if directory is None:
        obdengine.open(layers_of("")).close()
    else:
        image_names()


def after_fork():
    """Keep the image of config= open for as long as the server runs."""
    if directory is None:
        acquire(only_name or "")


def cleanup():
    """Close what is still open."""
    for export in list(exports.values()):
        export.close()
    exports.clear()


# -- Negotiation.


def list_exports(readonly, is_tls):
    """Return the names that a client may ask for."""
    return [only_name or ""] if directory is None else image_names()


def default_export(readonly, is_tls):
    """Return the name that "" stands for."""
    if directory is None:
        return only_name or ""
    names = image_names()
    return names[0] if len(names) == 1 else ""


def open(readonly):
    """Return the export that the client has named."""
    try:
        return acquire(wanted_export(nbdkit.export_name()))
    except (ObdError, OSError) as error:
        raise failed(error) from None


def wanted_export(name):
    """Return the key in `exports` for a client's name, or raise."""
    if directory is None:
        if only_name is not None and name not in ("", only_name):
            raise SourceMissing(f"the export is called {only_name!r}, not {name!r}")
        return only_name or ""
    name = name or default_export(True, False)
    if not name:
        raise SourceMissing("say which: " + (", ".join(image_names()) or "none"))
    return name


def close(h):
    """Let go of the export."""
    release(h)


def export_description(h):
    """Return the image in a few words."""
    layers = len(h.layers)
    return f"{h.layers[-1].name}, {layers} layer{'s' if layers > 1 else ''}"


def get_size(h):
    """Return the size of the disk in bytes."""
    return h.device.size


def block_size(h):
    """Return the least, the best and the largest request, in bytes."""
    blocks = [layer.blob.block_size or 4096 for layer in h.device.layers]
    return (1, max(4096, *blocks), MAX_REQUEST)


def can_multi_conn(h):
    """All connections see one device, and it does not change."""
    return True


def can_cache(h):
    """Cache requests are ours to answer: see cache()."""
    return nbdkit.CACHE_NATIVE


def can_extents(h):
    """Holes and zeroes are known without reading."""
    return True


# -- Requests.


def pread(h, buf, offset, flags):
    """Fill buf with the bytes at offset."""
    try:
        h.device.pread_into(offset, buf)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def cache(h, count, offset, flags):
    """Bring the bytes near, without sending them."""
    try:
        h.device.cache(offset, count)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def extents(h, count, offset, flags):
    """Return (offset, length, type) for the range, or for its beginning."""
    limit = 1 if flags & nbdkit.FLAG_REQ_ONE else EXTENTS_PER_REPLY
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    try:
        found = islice(h.device.extents(offset, count), limit)
        return [(e.offset, e.length, hole if e.zero else 0) for e in found]
    except (ObdError, OSError) as error:
        raise failed(error) from None
