# SPDX-License-Identifier: Apache-2.0
"""seal - `obd seal`: make the writable layer a read-only one where it is."""

from __future__ import annotations

import click

from obdengine.cli.images import configuration, writable_argument
from obdengine.cli.output import json_option, json_text, pairs, size_text
from obdengine.ops.commit import seal as seal_upper

__all__ = ["seal"]


@click.command()
@writable_argument
@json_option
def seal(image: str, as_json: bool) -> None:
    """Make the writable layer of IMAGE its top layer, without copying it.

    IMAGE has no writable layer then.
    """
    path = configuration(image)
    sealed = seal_upper(path)
    found = {
        "filename": str(path),
        "layer": str(sealed.path),
        "virtual-size": sealed.virtual_size,
        "entries": sealed.entries,
        "uuid": sealed.uuid,
        "parent-uuid": sealed.parent_uuid,
    }
    rows = [
        ("image", str(path)),
        ("top layer", str(sealed.path)),
        ("virtual size", size_text(sealed.virtual_size)),
        ("entries", str(sealed.entries)),
        ("uuid", sealed.uuid or "none"),
    ]
    click.echo(json_text(found) if as_json else pairs(rows))
