# SPDX-License-Identifier: Apache-2.0
"""
convert_local - a raw disk into a layer, a stack into one layer or a raw disk.

The work is in obdengine.ops.convert. The result replaces DST in one step or
not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

import obdengine
from obdengine.cli.convert_job import STREAM, Converter, Facts, Job
from obdengine.cli.images import (
    files_of,
    name_of,
    refuse_overwriting,
    resolved,
)
from obdengine.cli.layers import (
    LAYER_OPTIONS,
    layer_facts,
    layer_options,
    notice,
    notices,
    refuse_codec_options,
)
from obdengine.cli.output import progress_bar
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.convert import to_layer, to_raw
from obdengine.ops.disks import RawDisk, looks_like_image
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.ops.resolve import is_remote

__all__ = ["TO_LAYER", "TO_RAW", "is_stack", "odd_size", "open_stack", "refuse_streams"]


def is_stack(job: Job) -> bool:
    """Tell whether the sources are layers or a configuration, not another disk."""
    if job.source_format:
        return job.source_format == "obd"
    first = job.sources[0]
    if len(job.sources) > 1 or is_remote(first):
        return True
    return Path(first).is_dir() or looks_like_image(first)


def refuse_streams(job: Job) -> None:
    """Raise UsageError for layers that come through a pipe."""
    if STREAM in job.sources:
        raise UsageError("a layer cannot be read from standard input")


def _to_raw(job: Job) -> Facts:
    if not is_stack(job):
        if job.sources[0] != STREAM:
            Path(job.sources[0]).stat()  # a typing error is not a raw disk
        raise UsageError(
            "both sides are raw, there is nothing to convert", hint="see cp --sparse"
        )
    refuse_streams(job)
    with ExitStack() as stack, progress_bar("convert", job.progress) as show:
        source = open_stack(stack, job.sources, job.target)
        to_raw(source, job.target, progress=show)
    facts: Facts = {"filename": job.target, "format": "raw"}
    if job.target != STREAM:
        status = Path(job.target).stat()
        facts |= {
            "virtual-size": status.st_size,
            "actual-size": status.st_blocks * 512,
        }
    return facts


def _to_layer(job: Job) -> Facts:
    stacked, base = is_stack(job), job.options["base"]
    if stacked:
        refuse_streams(job)
    elif len(job.sources) > 1:
        raise UsageError("one raw disk at a time", hint="several SRC are layers")
    refuse_codec_options(job.context)
    options = layer_options(**job.chosen(LAYER_OPTIONS))
    with ExitStack() as stack, progress_bar("convert", job.progress) as show:
        below = open_stack(stack, base, job.target) if base else None
        source: RawDisk | Device
        if stacked:
            source = open_stack(stack, job.sources, job.target)
        else:
            refuse_overwriting(job.target, job.sources)
            sure = job.source_format is not None
            source = stack.enter_context(RawDisk(job.sources[0], any_content=sure))
        written = to_layer(
            source, job.target, base=below, options=options, progress=show
        )
        for sentence in _notices(source, options, written):
            notice(sentence)
    return layer_facts(written)


def _notices(
    source: RawDisk | Device, options: LayerOptions, written: Written
) -> Iterator[str]:
    if isinstance(source, RawDisk):
        yield from odd_size(source)
    yield from notices(options, written)


def odd_size(disk: RawDisk) -> Iterator[str]:
    """Yield what is to be said of a disk that is no whole sectors."""
    if disk.size != disk.file_size:
        yield (
            f"{disk.name}: {disk.file_size} bytes are not whole sectors, "
            f"the disk has {disk.size}, the last ones zero"
        )


def open_stack(stack: ExitStack, image: Sequence[str], target: str) -> Device:
    """Open an image that is not to be the target; stack closes it."""
    refuse_overwriting(target, [*image, *files_of(resolved(image))])
    words = [name_of(word) for word in image]
    return stack.enter_context(obdengine.open(words))


TO_RAW = Converter(
    name="-O raw",
    matches=lambda job: job.target_format == "raw",
    run=_to_raw,
    sources=("raw", "obd"),
    targets=("raw",),
)

TO_LAYER = Converter(
    name="a layer",
    matches=lambda job: job.target_format == "obd",
    run=_to_layer,
    takes=frozenset(["base", *LAYER_OPTIONS]),
    options=(
        click.option(
            "--base",
            multiple=True,
            metavar="IMAGE",
            help="Store only what differs from this image (repeat for layers, bottom "
            "first).",
        ),
    ),
    targets=("obd",),
)
