# SPDX-License-Identifier: Apache-2.0
"""
turbo_blob - a TurboOCI layer as registries have it: a small tar.gz, unpacked.

    FSTYPE.fs.meta   the layer: an index over the original one
    gzip.meta        where reading can start in that, if it is compressed
    .turbo.ociv1     empty: a mark
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from obdengine.errors import BadHeader, SourceError
from obdengine.oci.digest import DigestReader
from obdengine.oci.manifest import Descriptor
from obdengine.oci.store import Store
from obdengine.source.output import Output
from obdengine.units import MIB

__all__ = ["TurboFiles", "unpack", "unpacked"]

_META_END, _INDEX = ".fs.meta", "gzip.meta"

# What is inside is compressed already, so that it cannot be much more.
_MAX_RATIO = 16
_MAX_MEMBERS = 16


class TurboFiles(NamedTuple):
    """The files of one such layer."""

    meta: Path
    gzip_index: Path | None


def unpacked(store: Store, layer: Descriptor, folder: Path) -> TurboFiles:
    """Return the files of a layer's blob in folder, where they are put if need be.

    Files that are there already are taken as they are: they came in this way.
    Raises what store.blob() raises, BadHeader when it is no such blob,
    SourceError.
    """
    found = _there(folder)
    if found is None:
        with store.blob(layer) as reader:
            found = unpack(reader, layer.size, folder)
    return found


def unpack(reader: DigestReader, size: int, folder: Path) -> TurboFiles:
    """Put the files of a layer's blob, which has size bytes, into folder.

    Raises as unpacked() does.
    """
    _put(reader, folder, size * _MAX_RATIO + MIB)
    found = _there(folder)
    if found is None:
        raise BadHeader(reader.name, f"no {_META_END} in a TurboOCI layer")
    return found


def _put(reader: DigestReader, folder: Path, most: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        outs = _unpack(reader, folder, most)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise BadHeader(reader.name, f"not a TurboOCI layer: {error}") from error
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be written: {error.strerror}", errno=error.errno
        ) from error
    try:
        reader.finish()
        # The layer itself comes last: where it is, everything is.
        for out in sorted(outs, key=lambda out: out.path.name.endswith(_META_END)):
            out.commit()
    finally:
        for out in outs:
            out.abandon()


def _unpack(reader: DigestReader, folder: Path, most: int) -> list[Output]:
    outs: list[Output] = []
    try:
        with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r|gz") as archive:
            for number, member in enumerate(archive):
                if number >= _MAX_MEMBERS or member.size > most:
                    raise BadHeader(reader.name, "more than a TurboOCI layer has")
                name = _wanted(member)
                if name:
                    outs.append(_copied(archive, member, folder / name))
    except BaseException:
        for out in outs:
            out.abandon()
        raise
    return outs


def _wanted(member: tarfile.TarInfo) -> str | None:
    """Return the name of a member that is kept; nothing that it says is a path."""
    name = member.name.removeprefix("./")
    if not member.isreg() or "/" in name:
        return None
    return name if name == _INDEX or name.endswith(_META_END) else None


def _copied(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Output:
    out = Output(path)
    try:
        opened: Any = archive.extractfile(member)
        while data := opened.read(MIB):
            out.append(data)
    except BaseException:
        out.abandon()
        raise
    return out


def _there(folder: Path) -> TurboFiles | None:
    metas = sorted(folder.glob(f"*{_META_END}"))
    if not metas:
        return None
    index = folder / _INDEX
    return TurboFiles(metas[0], index if index.exists() else None)
