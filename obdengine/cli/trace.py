# SPDX-License-Identifier: Apache-2.0
"""trace - `obd trace`: what of an image is read first, recorded and replayed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

import obdengine
from obdengine.cli.images import image_argument, name_of, resolved
from obdengine.cli.output import (
    json_option,
    json_text,
    pairs,
    progress_bar,
    progress_option,
    size_text,
)
from obdengine.cli.paths import control_option, path_argument, path_option
from obdengine.cli.plot import draw
from obdengine.cli.serve import SplitCommand, run_served
from obdengine.cli.snapshot import export_option, say_reply
from obdengine.device import Read
from obdengine.device.recorder import Noted
from obdengine.device.trace import merge_traces
from obdengine.errors import SourceMissing, UsageError
from obdengine.ops.background import known_reads, replay
from obdengine.ops.control import ask
from obdengine.ops.traces import (
    load_times,
    load_trace,
    pack_acceleration,
    save_layer_traces,
    save_trace,
)
from obdengine.service import usual_service
from obdengine.source.writable import WritableFile

__all__ = ["trace"]

_trace_argument = path_argument("path", "TRACE")
_control_option = control_option("Where the server listens.", required=True)


@click.group()
def trace() -> None:
    """Record what of an image is read first, and have it here before it is read.

    A TRACE is a file in overlaybd's format.
    """


@trace.command("record", cls=SplitCommand, options_metavar="[OPTIONS]")
@click.argument("image", nargs=-1, required=True, metavar="IMAGE... [-- COMMAND...]")
@path_option(*("-o", "--to"), metavar="TRACE", help="The file to write.", required=True)
@click.pass_obj
def _record(command: tuple[str, ...], /, image: tuple[str, ...], to: Path) -> int:
    """Serve an image, and record what is read of it until COMMAND or Ctrl-C ends it.

    COMMAND gets what it gets from `obd serve`.
    """
    return run_served(image, command, [f"record={to.absolute()}"])


@trace.command("start")
@_control_option
@export_option
@path_option(
    *("-o", "--to"),
    metavar="TRACE",
    help="The file that the server is to write.",
    required=True,
)
def _start(control: Path, export: str, to: Path) -> None:
    """Have a server that runs begin a recording."""
    words = {"dev_id": export, "to": str(to.absolute())}
    say_reply(ask(control, "POST", "trace/start", **words), False)


@trace.command("stop")
@_control_option
@export_option
def _stop(control: Path, export: str) -> None:
    """Have it end the recording, and write it."""
    say_reply(ask(control, "POST", "trace/stop", dev_id=export), False)


@trace.command("show")
@_trace_argument
@click.option("--reads", is_flag=True, help="List every read.")
@json_option
def _show(path: Path, reads: bool, as_json: bool) -> None:
    """Print what is in a trace."""
    found = load_trace(path)
    if as_json:
        click.echo(json_text(_facts(path, found, reads)))
        return
    sizes = _by_layer(found)
    rows = [("reads", str(len(found))), ("bytes", size_text(sum(sizes.values())))]
    rows += [(f"layer {n}", size_text(size)) for n, size in sorted(sizes.items())]
    click.echo(pairs(rows))
    for read in found if reads else ():
        click.echo(f"{read.layer:>3} {read.offset:>14} {read.size:>9}")


@trace.command("plot")
@_trace_argument
@path_argument("png")
@click.option("--prefetched", is_flag=True, help="Hits are what a trace has brought.")
def _plot(path: Path, png: Path, prefetched: bool) -> None:
    """Draw a trace: where in the layers, over time; hits, misses, prefetched.

    Time and hits are in TRACE.times, which a recording writes beside the
    trace. Without it the reads are drawn in their order.
    """
    times = path.with_name(path.name + ".times")
    if times.exists():
        noted = load_times(times)
    else:
        noted = [Noted(r, i / 1000, False) for i, r in enumerate(load_trace(path))]
    draw(png, noted, str(path), prefetched=prefetched)


@trace.command("merge")
@path_argument("traces", "TRACE...", several=True)
@path_option(*("-o", "--to"), metavar="TRACE", help="The file to write.", required=True)
def _merge(traces: tuple[Path, ...], to: Path) -> None:
    """Make one trace of those of several runs."""
    save_trace(to, merge_traces([load_trace(path) for path in traces]))


@trace.command("pack")
@_trace_argument
@path_argument("layer")
def _pack(path: Path, layer: Path) -> None:
    """Make a trace the layer that an image carries it in."""
    WritableFile.create(layer, pack_acceleration(load_trace(path)))


@trace.command("share")
@image_argument
@path_option(
    *("--trace", "path"),
    metavar="TRACE",
    help="What was recorded of the image.",
    required=True,
)
def _share(image: tuple[str, ...], path: Path) -> None:
    """Keep a trace with the layers it is of, for all images that have them."""
    found = resolved(image)
    saved = save_layer_traces(found.layers, load_trace(path), usual_service())
    if not saved:
        raise UsageError(f"{image[0]}: none of its layers has a digest and was read")
    click.echo(f"kept for {saved} of {len(found.layers)} layers")


@trace.command("replay")
@image_argument
@path_option(
    *("--trace", "path"),
    metavar="TRACE",
    help="Another trace than that of the image.",
)
@progress_option
def _replay(image: tuple[str, ...], path: Path | None, progress: bool) -> None:
    """Bring what a trace says to this machine."""
    service = usual_service()
    found = resolved(image)
    folder = Path(image[0]).parent if found.is_config else None
    with obdengine.open([name_of(word) for word in image]) as device:
        reads = (
            load_trace(path) if path else known_reads(device, found, service, folder)
        )
        if not reads:
            raise SourceMissing(f"{device.name}: there is no trace of it")
        work = replay(device, reads, max(service.prefetch, 1))
        with progress_bar("replay", progress) as show_progress:
            work.wait(show_progress)
        if work.error:
            raise work.error
        click.echo(f"{size_text(work.fetched)} fetched")


def _by_layer(reads: list[Read]) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for read in reads:
        sizes[read.layer] += read.size
    return sizes


def _facts(path: Path, found: list[Read], reads: bool) -> dict[str, Any]:
    sizes = _by_layer(found)
    facts: dict[str, Any] = {
        "filename": str(path),
        "format": "trace",
        "reads": len(found),
        "bytes": sum(sizes.values()),
        "layers": {str(number): size for number, size in sorted(sizes.items())},
    }
    if reads:
        facts["list"] = [list(read) for read in found]
    return facts
