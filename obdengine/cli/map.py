# SPDX-License-Identifier: Apache-2.0
"""
map - `obd map`: which layer every byte of a disk comes from.

The records and their spelling are those of `qemu-img map --output=json`, with
the number of the layer (from 0 at the bottom) beside qemu's depth (from 0 at
the top). They are printed as they are found: a disk may have millions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click

from obdengine.cli.images import image_argument, look
from obdengine.cli.output import json_option, printable
from obdengine.device import Device
from obdengine.errors import OutOfRange
from obdengine.units import human_size, parse_size

__all__ = ["map_", "records"]


@click.command("map")
@image_argument
@click.option(
    "--start-offset",
    type=parse_size,
    default="0",
    metavar="SIZE",
    help="Begin here (bytes, or 10M).",
)
@click.option(
    "--max-length", type=parse_size, metavar="SIZE", help="End after so many bytes."
)
@json_option
def map_(
    image: tuple[str, ...], start_offset: int, max_length: int | None, as_json: bool
) -> None:
    """Show which layer every byte of a disk comes from."""
    device, _busy = look(image)
    with device:
        if start_offset > device.size:
            raise OutOfRange(f"the disk ends at {device.size}, before {start_offset}")
        length = device.size - start_offset
        if max_length is not None:
            length = min(length, max_length)
        found = records(device, start_offset, length)
        lines = _json_lines(found) if as_json else _human_lines(device, found)
        for line in lines:
            click.echo(line)


def records(device: Device, offset: int, length: int) -> Iterator[dict[str, Any]]:
    """Yield one record for each extent of [offset, offset + length)."""
    top = len(device.layers) - (device.upper is None)
    for extent in device.extents(offset, length):
        layer = extent.layer
        yield {
            "start": extent.offset,
            "length": extent.length,
            "depth": top - (layer or 0),
            "present": extent.present,
            "zero": extent.zero,
            "data": extent.data,
            "layer": layer,
        }


def _json_lines(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    opening = "["
    for record in found:
        yield opening + json.dumps(record)
        opening = ","
    yield "]" if opening == "," else "[]"


def _human_lines(device: Device, found: Iterable[dict[str, Any]]) -> Iterator[str]:
    width = max(len(str(device.size)), len("length"))
    yield f"{'start':>{width}}  {'length':>{width}}  {'what':<4}  layer"
    totals = {"data": 0, "zero": 0, "hole": 0}
    for record in found:
        what = _what(record)
        totals[what] += record["length"]
        start, length = record["start"], record["length"]
        yield f"{start:>{width}}  {length:>{width}}  {what}  {_origin(device, record)}"
    yield ", ".join(f"{human_size(size)} {what}" for what, size in totals.items())


def _what(record: dict[str, Any]) -> str:
    if record["layer"] is None:
        return "hole"
    return "zero" if record["zero"] else "data"


def _origin(device: Device, record: dict[str, Any]) -> str:
    layer = record["layer"]
    if layer is None:
        return "-"
    missing = "" if record["present"] else " (not here yet)"
    part = device.layers[layer] if layer < len(device.layers) else device.upper
    assert part is not None
    target = getattr(part, "target", None)
    name = f"{part.name} and its target" if target else part.name
    return f"{layer} {printable(name)}{missing}"
