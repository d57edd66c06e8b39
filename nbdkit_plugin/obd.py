#!/usr/sbin/nbdkit python
# SPDX-License-Identifier: Apache-2.0
"""
obd - layered images as NBD exports: nbdkit's callbacks, put on a Device.

    nbdkit python obd.py config=IMAGE [config=IMAGE ...] [export=NAME]
                         [upper=DIR [form=append|sparse]] [readonly=BOOL]
                         [max-size=SIZE] [garbage=SIZE] [control=SOCKET]
                         [service=PATH] [trace=PATH] [record=PATH] [try=BOOL]
    nbdkit python obd.py dir=DIRECTORY [readonly=BOOL] [control=SOCKET]

One device serves all connections to an export. This file decides nothing about
formats, layers, caching or what is durable; it only says NBD.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import traceback
from itertools import groupby, islice
from pathlib import Path

import nbdkit  # type: ignore[import-not-found]

try:
    import obdengine
    from obdengine.errors import ObdError, SourceMissing, UsageError
    from obdengine.layer import UpperOptions
    from obdengine.ops import resolve
    from obdengine.ops.answers import number_of
    from obdengine.ops.background import Serving
    from obdengine.ops.control import Control, Served
    from obdengine.ops.folder import CONFIG_NAME
    from obdengine.service import Service
    from obdengine.units import parse_size
except Exception as missing:  # CoreError, where the compiled part does not fit
    obdengine = None
    UNUSABLE = missing
    ObdError = SourceMissing = UsageError = ValueError

API_VERSION = 2

FORMS = ("append", "sparse")
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

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
upper: str | None = None
form: str | None = None
readonly: bool | None = None
tried = False
room: dict[str, int] = {}
service = None
paths: dict[str, Path] = {}
control = None


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
    nbdkit.set_error(number_of(error))
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


# -- Threads. To Python every request comes in a thread that it never saw: it
# makes a state for it and drops it again, and with it maps and unmaps memory.
# That takes as long as a small request. So each thread keeps its state.

_own = threading.local()
_connecting: set[int] = set()


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _end_of_thread(_):
    """Give up the hold on the state, which is dropped when this returns."""
    ctypes.pythonapi.PyGILState_Release(0)


# Of glibc: (function, its argument, an address of whoever asks). Where it is
# missing nothing is kept.
_when_thread_ends = getattr(ctypes.CDLL(None), "__cxa_thread_atexit_impl", None)
_OWNER = ctypes.cast(_end_of_thread, ctypes.c_void_p)


def keep_state():
    """Keep this thread's state until it ends, if it is one of nbdkit's workers.

    The thread of a connection may outlive Python, so it has to do without;
    nbdkit waits for the workers.
    """
    if hasattr(_own, "kept") or threading.get_ident() in _connecting:
        return
    _own.kept = True
    if _when_thread_ends and not _when_thread_ends(_end_of_thread, None, _OWNER):
        ctypes.pythonapi.PyGILState_Ensure()


# -- The filter. Where nbdkit runs it before us (filter.c), it is told of the disk
# of each connection, and asks us only for what it cannot do.

try:
    _offer = ctypes.CDLL(None).obd_filter_offer
    _offer.argtypes = [ctypes.c_void_p]
except AttributeError:
    _offer = None


def offer(export):
    """Offer the device to the filter, if there is one; return the export."""
    if _offer is not None:
        _offer(export.device.native)
    return export


# -- Exports.


class Export:
    """An image that is opened by its first client and shared by all."""

    def __init__(self, name, files):
        """Remember what to open; nothing is read yet."""
        self.name = name
        self.files = files
        self.users = 0
        self.served = None
        self.opening = threading.Lock()

    @property
    def device(self):
        """The disk, once it is open."""
        return self.served.device

    def open(self):
        """Open the device unless another client did."""
        with self.opening:
            if self.served is None:
                self.served = open_served(
                    self.files, Serving(paths.get("trace"), paths.get("record"))
                )

    def close(self):
        """Close the device, if there is one: what was written is durable then."""
        with self.opening:
            served, self.served = self.served, None
            if served is not None:
                served.device.close()


exports: dict[str, Export] = {}
exports_lock = threading.Lock()


def acquire(name):
    """Return the export of that name, opened, with one more user."""
    with exports_lock:
        export = exports.get(name)
        if export is None:
            export = exports[name] = Export(name, files_of(name))
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


def open_served(files, serving=None):
    """Open an image as the keys want it: the device, and its configuration."""
    options = UpperOptions(**room)
    if directory is None or is_read_only():
        write = not is_read_only()
    else:
        # Of a folder's images some have an upper and some have none.
        write = resolve.resolve(files, service=service).upper is not None
    device = obdengine.open(
        files,
        readonly=not write,
        upper=upper,
        form=form or FORMS[0],
        options=options,
        service=service,
        serving=serving,
    )
    words = [Path(upper) / CONFIG_NAME] if upper else files
    return Served(device, resolve.configuration_of(words))


def is_read_only():
    """Tell whether the keys ask for no writing: it takes an upper, or a word."""
    return upper is None if readonly is None else readonly


def files_of(name):
    """Return what the image of that name is, as obdengine.open() takes it."""
    if directory is None:
        return images
    image = find_image(name)
    if image is None:
        raise SourceMissing(f"{directory}: there is no image {name!r}")
    return [str(image)]


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
    if obdengine is None:
        raise ImportError(how_to_import())
    take = TAKERS.get(key)
    if take is None:
        raise UsageError(f"unknown key {key}=, the keys are {', '.join(TAKERS)}")
    take(key, value)


def take_image(_key, name):
    """Take one more config=: a file, or a container image, wherever it is."""
    images.append(absolute(name))


def absolute(name):
    """Return a word that means the same when nbdkit has changed to /."""
    return resolve.absolute(name)


def take_directory(_key, name):
    """Take the folder of images."""
    global directory
    directory = Path(name).resolve()


def take_name(_key, name):
    """Take the name of the export."""
    global only_name
    only_name = name


def take_upper(_key, name):
    """Take the folder of the writable layer."""
    global upper
    upper = absolute(name)


def take_form(key, word):
    """Take the form of a new writable layer."""
    global form
    if word not in FORMS:
        raise UsageError(f"{key}={word}: must be {' or '.join(FORMS)}")
    form = word


def take_readonly(key, word):
    """Take whether writes are refused."""
    global readonly
    readonly = yes(key, word)


def take_try(key, word):
    """Take whether the image is to be opened once before it is served."""
    global tried
    tried = not yes(key, word)


def yes(key, word):
    """Return what a word for true or false means."""
    if word.lower() not in YES + NO:
        raise UsageError(f"{key}={word}: must be true or false")
    return word.lower() in YES


def take_size(key, word):
    """Take how much room the writable layer may have."""
    room[key.replace("-", "_")] = parse_size(word)


def take_service(_key, name):
    """Take overlaybd's overlaybd.json: cache, registries, prefetch, download."""
    global service
    service = Service.load(absolute(name))


def take_path(key, name):
    """Take the socket for orders, a trace to replay, or where to record one to."""
    paths[key] = Path(absolute(name))


TAKERS = {
    "config": take_image,
    "dir": take_directory,
    "export": take_name,
    "upper": take_upper,
    "form": take_form,
    "readonly": take_readonly,
    "try": take_try,
    "max-size": take_size,
    "garbage": take_size,
    "control": take_path,
    "service": take_service,
    "trace": take_path,
    "record": take_path,
}


def config_complete():
    """Check what config() has gathered."""
    if obdengine is None:
        raise ImportError(how_to_import())
    if bool(images) == bool(directory):
        raise UsageError("give either config=IMAGE (bottom first) or dir=DIRECTORY")
    for key, value in (("export", only_name), ("upper", upper)):
        if directory and value is not None:
            raise UsageError(f"{key}= goes with config=, dir= names exports by file")
    if directory and paths.keys() & {"trace", "record"}:
        raise UsageError("trace= and record= go with config=: they are of one image")
    if form and not upper:
        raise UsageError("form= goes with upper=, it is for a new writable layer")
    if room and is_read_only():
        raise UsageError("max-size= and garbage= are for writing: see upper=")


def get_ready():
    """Open everything once, so that what is wrong is said before the fork."""
    global control
    if directory is not None:
        image_names()
    elif not tried:
        open_served(images).device.close()
    if "control" in paths:
        control = Control(paths["control"], served_by_name)


def after_fork():
    """Keep the image of config= open for as long as the server runs."""
    if directory is None:
        acquire(only_name or "")
    if control:
        control.start()


def served_by_name(name):
    """Return the open image that a request on the control socket means."""
    export = exports.get(wanted_export(name))
    if export is None or export.served is None:
        raise SourceMissing(f"{name or 'the image'}: no client has it open")
    return export.served


def cleanup():
    """Close what is still open; what was written is durable then."""
    if control:
        control.close()
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
    _connecting.add(threading.get_ident())
    try:
        return offer(acquire(wanted_export(nbdkit.export_name())))
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
    _connecting.discard(threading.get_ident())
    release(h)


def export_description(h):
    """Return the image in a few words."""
    layers, writable = len(h.device.layers), h.device.upper is not None
    top = h.device.layers[-1].name if layers else h.device.name
    text = f"{top}, {layers} layer{'' if layers == 1 else 's'}"
    return f"{text} and a writable one" if writable else text


def get_size(h):
    """Return the size of the disk in bytes."""
    return h.device.size


def block_size(h):
    """Return the least, the best and the largest request, in bytes."""
    blocks = [layer.blob.block_size or 4096 for layer in h.device.layers]
    return (1, max([4096, *blocks]), MAX_REQUEST)


def can_write(h):
    """A device with an upper that was opened for it takes writes."""
    return not h.device.readonly


def can_flush(h):
    """What can be written can be made durable."""
    return not h.device.readonly


def can_fua(h):
    """A write with FUA is made durable by itself: see finish()."""
    return nbdkit.FUA_NATIVE


def can_trim(h):
    """Whole sectors of a trimmed range read as zeros."""
    return True


def can_zero(h):
    """Zeroes take no room."""
    return True


def can_fast_zero(h):
    """Zeroes are one record, however many: never slower than writing them."""
    return True


def can_multi_conn(h):
    """All connections see one device, and a flush is for all of them."""
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
    keep_state()
    try:
        h.device.pread_into(offset, buf)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def pwrite(h, buf, offset, flags):
    """Put the bytes of buf at offset."""
    keep_state()
    try:
        h.device.pwrite(offset, buf)
        finish(h, flags)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def trim(h, count, offset, flags):
    """Make the whole sectors of a range read as zeros."""
    try:
        h.device.discard(offset, count)
        finish(h, flags)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def zero(h, count, offset, flags):
    """Make a range read as zeros; that is fast, and takes no room, in any case."""
    try:
        h.device.write_zeroes(offset, count)
        finish(h, flags)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def flush(h, flags):
    """Make durable what was acknowledged, on whichever connection."""
    try:
        h.device.flush()
    except (ObdError, OSError) as error:
        raise failed(error) from None


def finish(h, flags):
    """Make durable what was written, where the client asks for it with FUA."""
    if flags & nbdkit.FLAG_FUA:
        h.device.flush()


def cache(h, count, offset, flags):
    """Bring the bytes near, without sending them."""
    try:
        h.device.cache(offset, count)
    except (ObdError, OSError) as error:
        raise failed(error) from None


def extents(h, count, offset, flags):
    """Return (offset, length, type) for the range, or for its beginning."""
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    try:
        found = islice(h.device.extents(offset, count), EXTENTS_PER_REPLY)
        if flags & nbdkit.FLAG_REQ_ONE:
            # All of the first type, whose layers do not matter: nbdkit joins them.
            _, found = next(groupby(found, lambda e: e.zero))
        return [(e.offset, e.length, hole if e.zero else 0) for e in found]
    except (ObdError, OSError) as error:
        raise failed(error) from None
