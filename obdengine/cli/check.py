# SPDX-License-Identifier: Apache-2.0
"""check - `obd check`: read everything that can be verified, and list the damage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from obdengine.cli.images import image_argument, layer_files
from obdengine.cli.output import (
    json_option,
    json_text,
    printable,
    progress_bar,
    progress_option,
    size_text,
)
from obdengine.errors import FormatError
from obdengine.ops.check import Report, check_image

__all__ = ["check"]

_CLEAN, _DAMAGED = 0, 3


@click.command()
@image_argument
@json_option
@progress_option
def check(image: tuple[str, ...], as_json: bool, progress: bool) -> int:
    """Verify headers, index rules and every checksum of an image.

    The exit code is 3 when there is damage, and all of it is listed.
    """
    files = layer_files(image)
    with progress_bar("check", progress) as show:
        report = check_image(files, show)
    if as_json:
        click.echo(json_text(_facts(image, report)))
    else:
        for line in _human(report):
            click.echo(line)
    return _DAMAGED if report.damage else _CLEAN


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
    for error in report.damage:
        yield printable(str(error))
    count = len(report.damage)
    verdict = f"{count} error{'s' if count > 1 else ''} found" if count else "no errors"
    yield (
        f"{verdict}: {report.layers} layer{'s' if report.layers != 1 else ''}, "
        f"{report.blocks} compressed blocks, {size_text(report.checked)} checked"
    )
