# SPDX-License-Identifier: Apache-2.0
"""create - `obd create`: a folder with a writable layer over an image, or a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from obdengine.cli.images import resolved
from obdengine.cli.output import json_option, json_text, pairs, size_text
from obdengine.config import Image, ImageConfig, resolve
from obdengine.errors import UsageError
from obdengine.layer import UpperOptions, open_upper
from obdengine.ops.create import create as create_image
from obdengine.units import SECTOR, parse_size, round_up

__all__ = ["create"]


@click.command()
@click.argument("image", nargs=-1, metavar="[IMAGE]...")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--size", type=parse_size, metavar="SIZE", help="Size of the disk (the image's)."
)
@click.option(
    "--form",
    type=click.Choice(["append", "sparse"]),
    default="append",
    help="A log, or data in place (append).",
)
@click.option(
    "--max-size", type=parse_size, metavar="SIZE", help="Most that its data may take."
)
@click.option(
    "--garbage", type=parse_size, metavar="SIZE", help="Overwritten data kept (1G)."
)
@json_option
def create(
    image: tuple[str, ...],
    folder: Path,
    size: int | None,
    form: str,
    max_size: int | None,
    garbage: int | None,
    as_json: bool,
) -> None:
    """Make a folder DIR with a writable layer over IMAGE, or an empty disk."""
    if not image and size is None:
        raise UsageError("a new disk needs --size")
    config = create_image(
        folder,
        resolved(image) if image else Image([]),
        size=None if size is None else round_up(size, SECTOR),
        form=form,
        options=UpperOptions(max_size, garbage),
    )
    found = _facts(config)
    click.echo(json_text(found) if as_json else _human(found))


def _facts(config: Path) -> dict[str, Any]:
    files, lowers = resolve([config]).upper, ImageConfig.load(config).lowers
    assert files is not None
    upper = open_upper(files.data, files.index, readonly=True, locked=False)
    upper.close()
    return {
        "filename": str(config),
        "format": "obd",
        "virtual-size": upper.virtual_size,
        "layers": len(lowers),
        "data": str(files.data),
        "index": str(files.index),
        "form": upper.form,
        "uuid": upper.uuid,
        "parent-uuid": upper.parent_uuid,
    }


def _human(found: dict[str, Any]) -> str:
    rows = [
        ("image", found["filename"]),
        ("virtual size", size_text(found["virtual-size"])),
        ("writable layer", f"{found['data']} ({found['form']} form)"),
        ("layers below", str(found["layers"])),
    ]
    return pairs(rows)
