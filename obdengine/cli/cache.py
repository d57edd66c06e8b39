# SPDX-License-Identifier: Apache-2.0
"""cache - `obd cache`: what of remote images is on this machine."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from obdengine.cli.output import json_option, json_text, printable
from obdengine.errors import SourceMissing, UsageError
from obdengine.service import usual_service
from obdengine.source.cache import Cache, Entry, key_of
from obdengine.units import human_size, parse_size

__all__ = ["cache"]


def _folder_option(command: Any) -> Any:
    return click.option(
        "--folder",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Another cache than the usual one.",
    )(command)


@click.group()
def cache() -> None:
    """Show what of remote images is on this machine, keep it, or remove it.

    BLOB is a digest, or the beginning of one.
    """


@cache.command("show")
@_folder_option
@json_option
def _show(folder: Path | None, as_json: bool) -> None:
    """Print what is in the cache, what was used last first."""
    found = _cache(folder)
    entries = found.entries()
    if as_json:
        click.echo(json_text(_facts(found, entries)))
        return
    click.echo(f"{found.options.folder}: {len(entries)} blobs, {_sum(found, entries)}")
    for entry in entries:
        share = 100 * entry.present // max(entry.size, 1)
        words = ["pinned"] * entry.pinned + ["verified"] * entry.whole
        click.echo(
            f"{human_size(entry.present):>9} of {human_size(entry.size):>9} {share:>3}%"
            f"  {_time(entry.used)}  {printable(entry.key)}  {' '.join(words)}".rstrip()
        )


@cache.command("pin")
@click.argument("blob", nargs=-1, required=True, metavar="BLOB...")
@_folder_option
def _pin(blob: tuple[str, ...], folder: Path | None) -> None:
    """Keep blobs, however long they are not used."""
    found = _cache(folder)
    for entry in _matching(found, blob):
        found.pin(entry.key)


@cache.command("unpin")
@click.argument("blob", nargs=-1, required=True, metavar="BLOB...")
@_folder_option
def _unpin(blob: tuple[str, ...], folder: Path | None) -> None:
    """Let blobs go when room is needed, as others."""
    found = _cache(folder)
    for entry in _matching(found, blob):
        found.pin(entry.key, False)


@cache.command("prune")
@click.argument("blob", nargs=-1, metavar="[BLOB]...")
@click.option(
    "--to",
    "limit",
    type=parse_size,
    metavar="SIZE",
    help="Remove what was used least lately, until so much is left.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Remove all but what is pinned."
)
@_folder_option
def _prune(
    blob: tuple[str, ...], limit: int | None, everything: bool, folder: Path | None
) -> None:
    """Remove blobs, or what was used least lately.

    Images that are in use go on, and fetch again what they need. Without
    options the cache is brought to its usual size.
    """
    if (blob and (everything or limit is not None)) or (
        everything and limit is not None
    ):
        raise UsageError("BLOB, --to and --all exclude each other")
    found = _cache(folder)
    before = sum(entry.room for entry in found.entries())
    for entry in _matching(found, blob):
        found.remove(entry.key)
    if not blob:
        found.shrink(0 if everything else limit)
    gained = before - sum(entry.room for entry in found.entries())
    click.echo(f"{human_size(max(gained, 0))} removed")


def _cache(folder: Path | None) -> Cache:
    options = usual_service().cache
    return Cache(options._replace(folder=folder) if folder else options)


def _matching(found: Cache, words: tuple[str, ...]) -> list[Entry]:
    """Return the blobs that words mean; raises when one means none, or several."""
    matched = []
    entries = found.entries()
    for word in words:
        key = key_of(word) if ":" in word and "//" not in word else word
        prefix = re.sub(r"^(sha\d+):", r"\1-", key if "url-" not in key else word)
        hits = [e for e in entries if e.name == word or e.key.startswith(prefix)]
        hits = hits or [e for e in entries if e.key.partition("-")[2].startswith(word)]
        if len(hits) != 1:
            many = f"{len(hits)} blobs are" if hits else "no blob is"
            raise SourceMissing(f"{found.options.folder}: {many} called {word}")
        matched.append(hits[0])
    return matched


def _sum(found: Cache, entries: list[Entry]) -> str:
    room = human_size(sum(entry.room for entry in entries))
    return f"{room} of {human_size(found.options.limit)}"


def _facts(found: Cache, entries: list[Entry]) -> dict[str, Any]:
    return {
        "folder": str(found.options.folder),
        "limit": found.options.limit,
        "actual-size": sum(entry.room for entry in entries),
        "blobs": [
            {
                "key": entry.key,
                "name": entry.name,
                "size": entry.size,
                "present": entry.present,
                "actual-size": entry.room,
                "used": entry.used,
                "pinned": entry.pinned,
                "verified": entry.whole,
            }
            for entry in entries
        ],
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
