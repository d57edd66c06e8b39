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

import obdengine
from obdengine.cli.images import (
    configuration,
    files_of,
    refuse_overwriting,
    resolved,
)
from obdengine.cli.layers import (
    LAYER_OPTIONS,
    layer_facts,
    layer_options,
    layer_settings,
    notice,
    notices,
    refuse_codec_options,
    refuse_given,
    say_written,
)
from obdengine.cli.output import (
    Progress,
    json_option,
    progress_bar,
    progress_option,
)
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.convert import to_layer, to_raw
from obdengine.ops.disks import RawDisk, looks_like_image
from obdengine.ops.layer_file import LayerOptions, Written

__all__ = ["convert"]

_FORMATS = click.Choice(["raw", "obd"])
_STREAM = "-"


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
@layer_settings(uuid="all zero", parent_uuid="that of the base's top")
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
    options = layer_options(**layer)
    with progress_bar("convert", progress) as show:
        written = _run(job, options, show)
    say_written(_facts(job, written), as_json)


def _detect(source: Sequence[str]) -> str:
    if len(source) > 1 or Path(source[0]).is_dir() or looks_like_image(source[0]):
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


def _refuse_useless_options(context: click.Context, job: _Job) -> None:
    if job.target_format == "raw":
        refuse_given(context, ["base", *LAYER_OPTIONS], "-O raw")
    else:
        refuse_codec_options(context)


def _run(job: _Job, options: LayerOptions, show: Progress | None) -> Written | None:
    """Convert, and return what was written when that is a layer."""
    with ExitStack() as stack:
        base = _open(stack, job.base, job.target) if job.base else None
        source: RawDisk | Device
        if job.source_format == "raw":
            refuse_overwriting(job.target, job.sources)
            source = stack.enter_context(RawDisk(job.sources[0], any_content=job.sure))
        else:
            source = _open(stack, job.sources, job.target)
            if job.target_format == "raw":
                to_raw(source, job.target, progress=show)
                return None
        written = to_layer(
            source, job.target, base=base, options=options, progress=show
        )
        for sentence in _notices(source, options, written):
            notice(sentence)
        return written


def _notices(
    source: RawDisk | Device, options: LayerOptions, written: Written
) -> Iterator[str]:
    if isinstance(source, RawDisk) and source.size != source.file_size:
        yield (
            f"{source.name}: {source.file_size} bytes are not whole sectors, "
            f"the disk has {source.size}, the last ones zero"
        )
    yield from notices(options, written)


def _open(stack: ExitStack, image: Sequence[str], target: str) -> Device:
    refuse_overwriting(target, [*image, *files_of(resolved(image))])
    words = [configuration(word) for word in image]
    return stack.enter_context(obdengine.open(words))


def _facts(job: _Job, written: Written | None) -> dict[str, Any]:
    if written is not None:
        return layer_facts(written)
    facts: dict[str, Any] = {"filename": job.target, "format": job.target_format}
    if job.target != _STREAM:
        status = Path(job.target).stat()
        facts |= {
            "virtual-size": status.st_size,
            "actual-size": status.st_blocks * 512,
        }
    return facts
