# SPDX-License-Identifier: Apache-2.0
"""snapshot - `obd snapshot`: what was written becomes a layer, writing goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import obdengine
from obdengine.cli.images import configuration
from obdengine.cli.output import json_option, json_text, pairs, printable
from obdengine.cli.paths import control_option, path_option
from obdengine.errors import UsageError
from obdengine.ops.control import ask
from obdengine.ops.snapshot import Snapshot
from obdengine.ops.snapshot import snapshot as take_snapshot

__all__ = ["export_option", "say_reply", "snapshot"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def export_option(command: _Command) -> _Command:
    """Give a command `--export`, for a server of several images."""
    return click.option(
        "--export",
        default="",
        metavar="NAME",
        help="With --control, the export that is meant (the only one).",
    )(command)


@click.command()
@click.argument("image", required=False, metavar="[IMAGE]")
@control_option()
@export_option
@path_option(
    "--config",
    metavar="PATH",
    help="A configuration that says how the image is to be afterwards.",
)
@json_option
def snapshot(
    image: str | None,
    control: Path | None,
    export: str,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make the writable layer of IMAGE its top layer, and go on in a new one.

    With --control, of a disk in use: writes wait for a moment.
    """
    if (image is None) == (control is None):
        raise UsageError("either IMAGE or --control is needed")
    if control:
        words = {"config": str(config.absolute())} if config else {}
        say_reply(ask(control, "POST", "snapshot", dev_id=export, **words), as_json)
        return
    if export:
        raise UsageError("--export goes with --control")
    path = configuration(str(image))
    with obdengine.open(path, readonly=False) as device:
        done = take_snapshot(device, path, config)
    _say(done, as_json)


def say_reply(reply: dict[str, Any], as_json: bool) -> None:
    """Print what a server has answered."""
    click.echo(json_text(reply) if as_json else printable(str(reply.get("message"))))


def _say(done: Snapshot, as_json: bool) -> None:
    found = {
        "filename": str(done.config),
        "layer": str(done.layer),
        "layers": done.layers,
        "data": str(done.upper),
    }
    rows = [
        ("image", str(done.config)),
        ("top layer", str(done.layer)),
        ("layers", str(done.layers)),
        ("writable layer", str(done.upper)),
    ]
    click.echo(json_text(found) if as_json else pairs(rows))
