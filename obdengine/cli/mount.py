# SPDX-License-Identifier: Apache-2.0
"""mount - `obd mount` and `umount`: images as folders of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from obdengine.cli.attach import device_options, facts, wanted_record
from obdengine.cli.output import json_option, json_text, printable
from obdengine.errors import UsageError
from obdengine.host import mounts
from obdengine.host.filesystems import KINDS, describe
from obdengine.host.mounts import Mounting
from obdengine.host.records import Places

__all__ = ["mount", "umount"]


@click.command()
@click.argument("image", nargs=-1, required=True, metavar="IMAGE...")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@device_options
@click.option(
    "--type", "kind", type=click.Choice(list(KINDS)), help="The file system (found)."
)
@click.option(
    "--options", "more", metavar="WORDS", default="", help="More options of mount(8)."
)
@click.option(
    "--overlay", is_flag=True, help="Take writes in an overlay that goes afterwards."
)
@click.option(
    "--overlay-folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take writes in an overlay whose files stay here.",
)
@json_option
def mount(
    image: tuple[str, ...],
    folder: Path,
    kind: str | None,
    more: str,
    overlay: bool,
    overlay_folder: Path | None,
    via: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Mount IMAGE at DIR, read-only unless it is said what takes the writes."""
    places = Places.usual()
    how = Mounting(
        target=folder,
        kind=kind,
        options=[word for word in more.split(",") if word],
        overlay=overlay or overlay_folder is not None,
        overlay_folder=overlay_folder,
    )
    record = mounts.mount(places, wanted_record(image, options), how, way=via)
    if as_json:
        found = facts(places, record)
        found["mount"] = describe(record.device, read_only=record.read_only, kind=kind)
        click.echo(json_text(found))
    else:
        click.echo(printable(f"{folder}: {record.name}, on {record.device}"))


@click.command()
@click.argument("folder", nargs=-1, required=True, metavar="DIR|NAME...")
def umount(folder: tuple[str, ...]) -> None:
    """Undo `obd mount`; it is no error if that has been done."""
    for word in folder:
        if not word:
            raise UsageError("which folder?")
        if mounts.unmount(Places.usual(), word) is None:
            click.echo(f"{printable(word)}: nothing of obd's is mounted", err=True)
