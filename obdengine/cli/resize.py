# SPDX-License-Identifier: Apache-2.0
"""resize - `obd resize`: another size for the disk of a writable image."""

from __future__ import annotations

import click

import obdengine
from obdengine.cli.images import configuration, writable_argument
from obdengine.cli.output import json_option, json_text, pairs, size_text
from obdengine.ops.resize import resize as resize_disk
from obdengine.units import SECTOR, parse_size, round_up

__all__ = ["resize"]


@click.command()
@writable_argument
@click.argument("size", metavar="[+]SIZE")
@json_option
def resize(image: str, size: str, as_json: bool) -> None:
    """Make the disk of IMAGE larger or smaller; +SIZE is added.

    It is not made smaller where anything but zeros would be cut off.
    """
    path = configuration(image)
    wanted = parse_size(size.removeprefix("+"))
    if size.startswith("+"):
        with obdengine.open(path) as device:
            wanted += device.size
    done = resize_disk(path, round_up(wanted, SECTOR))
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
