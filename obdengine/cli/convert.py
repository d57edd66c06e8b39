# SPDX-License-Identifier: Apache-2.0
"""
convert - `obd convert`: a disk into a layer, a stack into one layer or a disk.

Which of those it is follows from the formats on both sides; the work is in
obdengine.ops.convert. The result replaces DST in one step or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import obdengine
from obdengine.cli.images import layer_files, same_file
from obdengine.cli.output import (
    Progress,
    json_option,
    json_text,
    pairs,
    printable,
    progress_bar,
    progress_option,
    size_text,
)
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.convert import to_layer, to_raw
from obdengine.ops.disks import RawDisk, looks_like_image
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.units import parse_size

__all__ = ["convert"]

_FORMATS = click.Choice(["raw", "obd"])
_STREAM = "-"

# What says how a layer is written, and has no meaning for a raw disk.
_CODEC_OPTIONS = ["level", "block_size"]
_LAYER_OPTIONS = [
    *("base", "compress", "threads", "tar", "uuid", "parent_uuid", "message"),
    *_CODEC_OPTIONS,
]


@dataclass(frozen=True)
class _Job:
    """What is to be converted into what.

    Attributes:
        sure: whether the format of the sources was said, and not found out.
    """

    sources: tuple[str, ...]
    target: str
    source_format: str
    target_format: str
    base: tuple[str, ...]
    sure: bool


@click.command()
@click.argument("source", nargs=-1, required=True, metavar="SRC...")
@click.argument("target", metavar="DST")
@click.option(
    "-O", "target_format", type=_FORMATS, default="obd", help="Format of DST (obd)."
)
@click.option(
    "-f", "source_format", type=_FORMATS, help="Format of SRC (found out by default)."
)
@click.option(
    "--base",
    multiple=True,
    metavar="IMAGE",
    help="Store only what differs from this image (repeat for layers, bottom first).",
)
@click.option(
    "--compress",
    type=click.Choice(["lz4", "zstd", "none"]),
    default="lz4",
    help="Compression of the layer (lz4).",
)
@click.option("--level", type=int, help="Level of the compression.")
@click.option(
    "--block-size",
    type=parse_size,
    default="4k",
    metavar="SIZE",
    help="Bytes compressed as one block, 4k to 64k (4k).",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Threads (one per processor)."
)
@click.option("--tar", is_flag=True, help="Wrap the layer in tar, as registries need.")
@click.option("--uuid", help="UUID of the layer (all zero).")
@click.option("--parent-uuid", help="UUID of the layer below (that of the base's top).")
@click.option("--message", default="", help="Text to keep in the layer.")
@json_option
@progress_option
@click.pass_context
def convert(
    context: click.Context,
    /,
    source: tuple[str, ...],
    target: str,
    target_format: str,
    source_format: str | None,
    base: tuple[str, ...],
    as_json: bool,
    progress: bool,
    **layer: Any,
) -> None:
    """Convert SRC to DST; "-" is standard input or output.

    SRC is a raw disk, or an IMAGE (a config.v1.json, or layer files with the
    bottom first), which becomes one layer or one raw disk.
    """
    found, sure = source_format or _detect(source), bool(source_format)
    job = _Job(source, target, found, target_format, base, sure)
    _refuse_nonsense(job)
    _refuse_useless_options(context, job)
    options = _layer_options(**layer)
    with progress_bar("convert", progress) as show:
        written = _run(job, options, show)
    facts = _facts(job, written)
    # Facts must not get into the stream that is the result.
    click.echo(json_text(facts) if as_json else _human(facts), err=target == _STREAM)


def _detect(source: Sequence[str]) -> str:
    if len(source) > 1 or looks_like_image(source[0]):
        return "obd"
    return "raw"


def _refuse_nonsense(job: _Job) -> None:
    if job.source_format == "raw" and len(job.sources) > 1:
        raise UsageError("one raw disk at a time", hint="several SRC are layers")
    if job.source_format == "obd" and _STREAM in job.sources:
        raise UsageError("a layer cannot be read from standard input")
    if job.source_format == job.target_format == "raw":
        if job.sources[0] != _STREAM:
            Path(job.sources[0]).stat()  # a typing error is not a raw disk
        raise UsageError(
            "both sides are raw, there is nothing to convert", hint="see cp --sparse"
        )


def _refuse_overwriting(target: str, inputs: Sequence[str | Path]) -> None:
    for path in inputs:
        if target != _STREAM and same_file(Path(target), Path(path)):
            raise UsageError(f"{target}: cannot be the result and be read as well")


def _layer_options(
    *, compress: str, block_size: int, threads: int | None, **others: Any
) -> LayerOptions:
    if threads:
        others["threads"] = threads
    codec = None if compress == "none" else compress
    return LayerOptions(codec=codec, block_size=block_size, **others)


def _refuse_useless_options(context: click.Context, job: _Job) -> None:
    useless, other = list[str](), ""
    if job.target_format == "raw":
        useless, other = _LAYER_OPTIONS, "-O raw"
    elif context.params["compress"] == "none":
        useless, other = _CODEC_OPTIONS, "--compress none"
    for option in useless:
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} does not go with {other}")


def _run(job: _Job, options: LayerOptions, show: Progress | None) -> Written | None:
    """Convert, and return what was written when that is a layer."""
    with ExitStack() as stack:
        base = _open(stack, job.base, job.target) if job.base else None
        source: RawDisk | Device
        if job.source_format == "raw":
            _refuse_overwriting(job.target, job.sources)
            source = stack.enter_context(RawDisk(job.sources[0], any_content=job.sure))
        else:
            source = _open(stack, job.sources, job.target)
            if job.target_format == "raw":
                to_raw(source, job.target, progress=show)
                return None
        written = to_layer(
            source, job.target, base=base, options=options, progress=show
        )
        for notice in _notices(source, options, written):
            click.echo(f"obd: note: {printable(notice)}", err=True)
        return written


def _notices(
    source: RawDisk | Device, options: LayerOptions, written: Written
) -> Iterator[str]:
    if isinstance(source, RawDisk) and source.size != source.file_size:
        yield (
            f"{source.name}: {source.file_size} bytes are not whole sectors, "
            f"the disk has {source.size}, the last ones zero"
        )
    if options.codec and written.block_size != options.block_size:
        yield (
            f"{written.path}: blocks of {written.block_size} bytes, because some data "
            f"is incompressible and {options.block_size} would be too much to read back"
        )


def _open(stack: ExitStack, image: Sequence[str], target: str) -> Device:
    files = layer_files(image)
    _refuse_overwriting(target, [*image, *files])
    return stack.enter_context(obdengine.open(files))


def _facts(job: _Job, written: Written | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"filename": job.target, "format": job.target_format}
    if written is None:
        if job.target != _STREAM:
            status = Path(job.target).stat()
            facts |= {
                "virtual-size": status.st_size,
                "actual-size": status.st_blocks * 512,
            }
        return facts
    return facts | {
        "virtual-size": written.virtual_size,
        "file-size": written.size,
        "digest": written.digest,
        "entries": written.entries,
        "data-bytes": written.data_size,
        "zero-bytes": written.zero_size,
        "block-size": written.block_size,
        "ratio": round(written.data_size / written.size, 3),
    }


def _human(facts: dict[str, Any]) -> str:
    rows = [("file", f"{facts['filename']} ({facts['format']})")]
    for key in ("virtual-size", "actual-size", "data-bytes", "zero-bytes", "file-size"):
        if key in facts:
            rows.append((key.replace("-", " "), size_text(facts[key])))
    for key in ("ratio", "entries", "digest"):
        if key in facts:
            rows.append((key, str(facts[key])))
    return pairs(rows)
