# SPDX-License-Identifier: Apache-2.0
"""
convert_tree - a tar or a directory tree into a layer, alone or on top of an image.

The work is in obdengine.ops.put.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from obdengine.blob.unpack import PLAIN, Unpacked, compression_of
from obdengine.cli.convert_image import FILE_SYSTEM_OPTIONS, host_options, make_options
from obdengine.cli.convert_job import STREAM, Converter, Facts, Job
from obdengine.cli.images import files_of, refuse_overwriting, resolved
from obdengine.cli.layers import (
    LAYER_OPTIONS,
    layer_facts,
    layer_options,
    notice,
    notices,
    refuse_codec_options,
    refuse_given,
)
from obdengine.cli.output import progress_bar
from obdengine.errors import ObdError, UsageError
from obdengine.ops.disks import looks_like_image
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.layer_file import Written
from obdengine.ops.put import put_on_top
from obdengine.ops.tree import Owner, TreeTar
from obdengine.source import FileSource
from obdengine.source.stream import SourceStream

__all__ = ["FROM_TREE"]

_TAR, _DIRECTORY = "tar", "dir"
_HEAD = 512
_USTAR = slice(257, 262)

# How the first member of an archive of a container image is called, as docker,
# podman, skopeo and umoci make them; of a tree of files, hardly ever.
_OF_IMAGE = re.compile(
    rb"(\./)?([0-9a-f]{64}(\.tar|\.json|/.*)|blobs/.*|oci-layout|"
    rb"index\.json|manifest\.json|repositories)\0"
)


def _kind(job: Job) -> str | None:
    """Return which of the two the source is, None for neither."""
    if job.target_format != "obd":
        return None
    if job.source_format:
        return job.source_format if job.source_format in (_TAR, _DIRECTORY) else None
    if len(job.sources) > 1 or job.sources[0] == STREAM:
        return None
    path = Path(job.sources[0])
    if path.is_dir():
        return None if (path / CONFIG_NAME).exists() else _DIRECTORY
    return _TAR if _looks_like_tar(path) else None


def _looks_like_tar(path: Path) -> bool:
    """Tell whether a file is a tar, compressed or not, and not a layer in one."""
    if not path.is_file() or looks_like_image(path):
        return False
    return _first_head(path)[_USTAR] == b"ustar"


def _first_head(path: Path) -> bytes:
    """Return the first bytes of a tar, compressed or not; none if that fails."""
    try:
        with SourceStream(FileSource(path)) as stream:
            start = stream.read(_HEAD)
            if compression_of(start) != PLAIN:
                stream.seek(0)
                start = Unpacked(stream, str(path)).read(_HEAD)
    except ObdError:
        return b""  # reading it as what it is meant to be will say what is wrong
    return start


def _run(job: Job) -> Facts:
    if len(job.sources) > 1:
        raise UsageError("one tree at a time")
    refuse_codec_options(job.context)
    kind, base = _kind(job), job.options["base"]
    image = resolved(base) if base else None
    if image:
        refuse_given(job.context, [*FILE_SYSTEM_OPTIONS, "file_system"], "--base")
        refuse_overwriting(job.target, [*base, *files_of(image)])
    if kind == _TAR:
        refuse_given(job.context, ["owner"], "a tar, which says who owns what")
        refuse_overwriting(job.target, job.sources)
    _refuse_mistakes(job, kind)
    source = _source(job, kind)
    total = source.size
    with progress_bar("convert", job.progress) as show:
        written, notes = put_on_top(
            source.open,
            job.target,
            name=job.sources[0],
            base=image,
            size=job.options["size"],
            make=host_options(job) or make_options(job),
            options=layer_options(**job.chosen(LAYER_OPTIONS)),
            progress=(lambda done: show(done, max(done, total))) if show else None,
        )
    _say(job, written, [*notes, *source.notes])
    return layer_facts(written)


def _refuse_mistakes(job: Job, kind: str | None) -> None:
    """Raise UsageError for what would work, and is hardly what anybody wants."""
    path, target = Path(job.sources[0]), Path(job.target).resolve()
    inside = kind == _DIRECTORY and target.is_relative_to(path.resolve())
    if inside and job.target != STREAM:
        raise UsageError(
            f"{job.target}: is inside of what is converted",
            hint="name a file that is somewhere else",
        )
    if job.source_format:
        return
    if kind == _DIRECTORY and (path / "oci-layout").is_file():
        raise UsageError(
            f"{path}: an OCI layout",
            hint=f"oci:{path}, or -f dir for its files as they are",
        )
    if kind == _TAR and _OF_IMAGE.match(_first_head(path)):
        raise UsageError(
            f"{path}: an archive of a container image, as it seems",
            hint=f"docker-archive:{path} or oci-archive:{path}, or -f tar for its "
            "files as they are",
        )


def _say(job: Job, written: Written, notes: list[str]) -> None:
    for sentence in notes:
        notice(sentence)
    for sentence in notices(layer_options(**job.chosen(LAYER_OPTIONS)), written):
        notice(sentence)


class _Source:
    """Where the tar comes from: a file, standard input, a tree."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]], size: int):
        self.size = size
        self.notes: list[str] = []
        self._make = make

    def open(self) -> AbstractContextManager[Any]:
        opened = self._make()
        self.notes = getattr(opened, "notes", [])
        return opened


def _source(job: Job, kind: str | None) -> _Source:
    name = job.sources[0]
    if kind == _DIRECTORY:
        return _Source(lambda: TreeTar(name, _owner(job.options["owner"])), 0)
    if name == STREAM:
        return _Source(lambda: nullcontext(sys.stdin.buffer), 0)
    found = FileSource(name)
    found.close()
    return _Source(lambda: SourceStream(FileSource(name)), found.size)


def _owner(text: str | None) -> Owner | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    if not found or max(int(found[1]), int(found[2])) >= 2**32:
        raise UsageError(f"{text!r} is not an owner", hint="UID:GID, as in 0:0")
    return Owner(int(found[1]), int(found[2]))


FROM_TREE = Converter(
    name="a tree of files",
    matches=lambda job: _kind(job) is not None,
    run=_run,
    takes=frozenset(
        {*LAYER_OPTIONS, *FILE_SYSTEM_OPTIONS, "base", "owner", "file_system"}
    ),
    options=(
        click.option(
            "--owner",
            metavar="UID:GID",
            help="Who shall own everything of a directory (whoever does).",
        ),
    ),
    sources=(_TAR, _DIRECTORY),
)
