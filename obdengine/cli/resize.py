# SPDX-License-Identifier: Apache-2.0
"""resize - `obd resize`: another size for the disk of a writable image."""

from __future__ import annotations

from pathlib import Path

import click

import obdengine
from obdengine.cli.images import configuration
from obdengine.cli.output import json_option, json_text, pairs, size_text
from obdengine.cli.paths import control_option
from obdengine.cli.snapshot import export_option, say_reply
from obdengine.errors import UsageError
from obdengine.ops.control import ask
from obdengine.ops.resize import Resized
from obdengine.ops.resize import resize as resize_disk
from obdengine.units import SECTOR, parse_size, round_up

__all__ = ["resize"]


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[IMAGE] [+]SIZE")
@control_option()
@export_option
@json_option
def resize(
    words: tuple[str, ...], control: Path | None, export: str, as_json: bool
) -> None:
    """Make the disk of IMAGE larger or smaller; +SIZE is added.

    It is not made smaller where anything but zeros would be cut off. With
    --control, a disk in use: clients that come from then on see the new size.
    """
    *image, size = words
    if len(image) != (control is None):
        raise UsageError("IMAGE and a size are needed, or --control and a size")
    if control:
        sign = "+" if size.startswith("+") else ""
        wanted = f"{sign}{_bytes(size)}"
        say_reply(ask(control, "POST", "resize", dev_id=export, size=wanted), as_json)
        return
    if export:
        raise UsageError("--export goes with --control")
    path = configuration(image[0])
    wanted_size = _bytes(size)
    if size.startswith("+"):
        with obdengine.open(path) as device:
            wanted_size += device.size
    _say(path, resize_disk(path, wanted_size), as_json)


def _bytes(size: str) -> int:
    return round_up(parse_size(size.removeprefix("+")), SECTOR)


def _say(path: Path, done: Resized, as_json: bool) -> None:
    found = {
        "filename": str(path),
        "virtual-size-before": done.before,
        "virtual-size": done.after,
    }
    rows = [
        ("image", str(path)),
        ("before", size_text(done.before)),
        ("virtual size", size_text(done.after)),
    ]
    click.echo(json_text(found) if as_json else pairs(rows))
