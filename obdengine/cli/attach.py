# SPDX-License-Identifier: Apache-2.0
"""attach - `obd attach`, `detach` and `ps`: images as block devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import click

from obdengine.cli.images import configuration
from obdengine.cli.output import json_option, json_text, pairs, printable, size_text
from obdengine.cli.writing import writing_options
from obdengine.errors import HostError, UsageError
from obdengine.host import devices
from obdengine.host.export import Writing
from obdengine.host.filesystems import describe
from obdengine.host.records import Places, Record
from obdengine.host.server import CONTROL, SOCKET
from obdengine.units import human_size

__all__ = ["attach", "detach", "device_options", "facts", "ps", "wanted_record"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_AT_A_TIME = 8

_WAYS = {
    "nbd": "the kernel's NBD client",
    "loop": "FUSE and a loop device",
    "file": "a file in FUSE",
    "socket": "nothing: it is the socket of the server",
}

_OPTIONS = [
    click.option("--name", default="", metavar="NAME", help="What to call it."),
    click.option(
        "--via",
        type=click.Choice(list(devices.WAYS)),
        help="How (the first of these that works here).",
    ),
    writing_options,
    click.option(
        "--reconnect",
        "patience",
        type=click.IntRange(0, 86400),
        default=60,
        metavar="SECONDS",
        help="How long requests wait when the server is gone (60).",
    ),
    click.option(
        "--timeout",
        type=click.IntRange(0, 86400),
        default=0,
        metavar="SECONDS",
        help="With nbd, how long a request may take (for ever).",
    ),
    click.option(
        "--connections",
        type=click.IntRange(1, 16),
        default=2,
        help="With nbd, connections to the server (2).",
    ),
]


def device_options(command: _Command) -> _Command:
    """Give a command the options that wanted_record() takes, and --via."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wanted_record(image: Sequence[str], options: dict[str, Any]) -> Record:
    """Return the device that the options ask for."""
    writing = Writing(*(options.pop(key) for key in Writing._fields))
    words = [_word(word) for word in image]
    return Record(image=words, options=writing.facts(), **options)


def _word(word: str) -> str:
    """Return a word for an image; of a folder that `obd create` made, its config."""
    try:
        return str(configuration(word))
    except UsageError:
        return word


@click.command()
@click.argument("image", nargs=-1, metavar="IMAGE...")
@device_options
@click.option("--keep", is_flag=True, help="Make it again after a reboot.")
@click.option(
    "--owner", default="", metavar="USER", help="Give the socket to this user."
)
@click.option("--all", "everything", is_flag=True, help="Mend all that is down.")
@json_option
def attach(
    image: tuple[str, ...],
    everything: bool,
    via: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Make a block device of IMAGE, which stays when the command has ended."""
    places = Places.usual()
    if everything:
        if image:
            raise UsageError("--all goes without IMAGE")
        return _restore(places, as_json)
    if not image:
        raise UsageError("which IMAGE?")
    record, _ = devices.attach(places, wanted_record(image, options), way=via)
    found = facts(places, record)
    click.echo(json_text(found) if as_json else _human(found))
    return 0


def _restore(places: Places, as_json: bool) -> int:
    done = devices.restore(places)
    rows = [{"name": name, "error": str(e) if e else None} for name, e in done]
    if as_json:
        click.echo(json_text(rows))
    for name, error in [] if as_json else done:
        click.echo(f"{name}: {printable(str(error)) if error else 'up'}")
    return 1 if any(error for _, error in done) else 0


@click.command()
@click.argument("device", nargs=-1, required=True, metavar="NAME|DEVICE...")
def detach(device: tuple[str, ...]) -> None:
    """Take devices away that `obd attach` made; it is no error if they are gone."""
    places = Places.usual()
    # Most of it is waiting for servers that end.
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = list(pool.map(lambda word: _detached(places, word), device))
    for word, result in zip(device, found, strict=True):
        if result is None:
            click.echo(f"{printable(word)}: is not attached", err=True)
    for result in found:
        if isinstance(result, Exception):
            raise result


def _detached(places: Places, word: str) -> str | Exception | None:
    """Take one device away, whatever happens with others."""
    try:
        return devices.detach(places, word)
    except Exception as error:
        return error


@click.command()
@json_option
def ps(as_json: bool) -> None:
    """List what is attached."""
    places = Places.usual()
    found = [facts(places, record) for record in devices.attached(places)]
    if as_json:
        click.echo(json_text(found))
        return
    rows: list[tuple[str, ...]] = [("NAME", "DEVICE", "SIZE", "STATE", "MODE", "IMAGE")]
    rows += [_row(facts) for facts in found]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo(printable("  ".join([*cells, row[-1]])))


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    mode = "ro" if found["read-only"] else "rw"
    return (
        found["name"],
        found["device"] or "-",
        human_size(found["virtual-size"]),
        found["state"],
        mode,
        " ".join(found["image"]),
    )


def facts(places: Places, record: Record) -> dict[str, Any]:
    """Return what there is to say of a device; sizes in bytes."""
    folder, state = places.folder(record.name), devices.health(record)
    found = {
        "name": record.name,
        "device": record.device or None,
        "via": record.way,
        "state": state,
        "virtual-size": record.size,
        "read-only": record.read_only,
        "image": record.image,
        "upper": record.options.get("upper"),
        "socket": str(folder / SOCKET),
        "control": str(folder / CONTROL),
        "server-pid": record.server.pid if record.server else None,
        "bridge-pids": [p.pid for p in record.bridge or () if p],
        "keep": record.keep,
        "mounts": record.mounts,
        "mount": None,
    }
    if state == "up" and record.way != "socket":
        # A disk without a file system, or one that fails: there is no mount.
        with suppress(UsageError, HostError):
            found["mount"] = describe(record.device, read_only=record.read_only)
    return found


def _human(found: dict[str, Any]) -> str:
    rows = [
        ("device", found["device"]),
        ("name", found["name"]),
        ("by", _WAYS[found["via"]]),
        ("virtual size", size_text(found["virtual-size"])),
        ("writes", "are refused" if found["read-only"] else "are taken"),
        ("socket", found["socket"]),
    ]
    if found["mount"]:
        how = found["mount"]
        rows.append(("file system", f"{how['type']}, {','.join(how['options'])}"))
    return pairs(rows)
