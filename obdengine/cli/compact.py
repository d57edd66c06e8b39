# SPDX-License-Identifier: Apache-2.0
"""compact - `obd compact`: a writable layer without its garbage."""

from __future__ import annotations

from pathlib import Path

import click

from obdengine.cli.images import configuration
from obdengine.cli.output import (
    json_option,
    json_text,
    pairs,
    progress_bar,
    progress_option,
    size_text,
)
from obdengine.cli.paths import control_option
from obdengine.cli.snapshot import export_option, say_reply
from obdengine.errors import UsageError
from obdengine.ops.compact import Compacted
from obdengine.ops.compact import compact as compact_upper
from obdengine.ops.control import ask

__all__ = ["compact"]


@click.command()
@click.argument("image", required=False, metavar="[IMAGE]")
@control_option()
@export_option
@json_option
@progress_option
def compact(
    image: str | None, control: Path | None, export: str, as_json: bool, progress: bool
) -> None:
    """Give back the room that overwritten data takes in IMAGE's writable layer.

    Of a disk in use, which --control is for, the index is written anew.
    """
    if (image is None) == (control is None):
        raise UsageError("either IMAGE or --control is needed")
    if control:
        say_reply(ask(control, "POST", "compact", dev_id=export), as_json)
        return
    if export:
        raise UsageError("--export goes with --control")
    with progress_bar("compact", progress) as show:
        done = compact_upper(configuration(str(image)), progress=show)
    _say(str(image), done, as_json)


def _say(image: str, done: Compacted, as_json: bool) -> None:
    found = {
        "filename": image,
        "data": str(done.path),
        "actual-size-before": done.before,
        "actual-size": done.after,
        "records-before": done.records_before,
        "records": done.records_after,
    }
    rows = [
        ("image", image),
        ("writable layer", str(done.path)),
        ("before", f"{size_text(done.before)}, {done.records_before} records"),
        ("after", f"{size_text(done.after)}, {done.records_after} records"),
    ]
    click.echo(json_text(found) if as_json else pairs(rows))
