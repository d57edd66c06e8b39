# SPDX-License-Identifier: Apache-2.0
"""
check - `obd check`: read everything that can be verified, and list the damage.

With --repair what a power cut has left in a writable layer's log is taken
out first. Nothing else can be repaired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from obdengine.cli.images import configuration, image_argument, resolved
from obdengine.cli.layers import notice
from obdengine.cli.output import (
    json_option,
    json_text,
    printable,
    progress_bar,
    progress_option,
    size_text,
)
from obdengine.errors import FormatError, UsageError
from obdengine.ops.check import Report, check_image, repair

__all__ = ["check"]

_CLEAN, _DAMAGED = 0, 3


@click.command()
@image_argument
@click.option(
    "--repair",
    "mend",
    is_flag=True,
    help="Take out of the writable layer's log what does not count.",
)
@json_option
@progress_option
def check(image: tuple[str, ...], mend: bool, as_json: bool, progress: bool) -> int:
    """Verify headers, index rules and every checksum of an image.

    The exit code is 3 when there is damage, and all of it is listed.
    """
    mended = _repaired(image) if mend else Report()
    files = resolved(image)
    with progress_bar("check", progress) as show:
        report = check_image(files.layers, show, upper=files.upper)
    report.repaired, report.left_over = mended.repaired, mended.left_over
    for sentence in report.notes:
        notice(sentence)
    if as_json:
        click.echo(json_text(_facts(image, report)))
    else:
        for line in _human(report):
            click.echo(line)
    return _DAMAGED if report.damage else _CLEAN


def _repaired(image: tuple[str, ...]) -> Report:
    if len(image) > 1:
        raise UsageError("--repair is for an image with a writable layer")
    return repair(configuration(image[0]))


def _facts(image: tuple[str, ...], report: Report) -> dict[str, Any]:
    return {
        "filename": image[-1],
        "format": "obd",
        "check-errors": 0,
        "corruptions": len(report.damage),
        "layers": report.layers,
        "blocks": report.blocks,
        "checked-bytes": report.checked,
        "damage": [_damage_facts(error) for error in report.damage],
        "corruptions-fixed": len(report.repaired),
        "repaired": [_damage_facts(error) for error in report.repaired],
        "removed": [str(path) for path in report.left_over],
        "notes": report.notes,
    }


def _damage_facts(error: FormatError) -> dict[str, Any]:
    return {
        "filename": error.name,
        "offset": error.offset,
        "kind": type(error).__name__,
        "what": error.what,
        "expected": _plain(error.expected),
        "found": _plain(error.found),
        "message": str(error),
    }


def _plain(value: object) -> int | str | None:
    return value if isinstance(value, (int, str, type(None))) else str(value)


def _human(report: Report) -> Iterator[str]:
    for error in report.repaired:
        yield printable(f"repaired: {error.name}: {error.what}")
    for path in report.left_over:
        yield printable(f"removed: {path}")
    for error in report.damage:
        yield printable(str(error))
    count = len(report.damage)
    verdict = f"{count} error{'s' if count > 1 else ''} found" if count else "no errors"
    yield (
        f"{verdict}: {report.layers} layer{'s' if report.layers != 1 else ''}, "
        f"{report.blocks} compressed blocks, {size_text(report.checked)} checked"
    )
