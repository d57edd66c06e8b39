# SPDX-License-Identifier: Apache-2.0
"""writing - the options of commands that serve an image, about writing to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from obdengine.units import parse_size

__all__ = ["writing_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--upper",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write to a layer in this folder; it is made if it is new.",
    ),
    click.option(
        "--read-write", "-w", is_flag=True, help="Write to the image's own upper."
    ),
    click.option(
        "--form",
        type=click.Choice(["append", "sparse"]),
        help="Form of a new writable layer (append).",
    ),
    click.option(
        "--max-size",
        type=parse_size,
        metavar="SIZE",
        help="Most that its data may take.",
    ),
    click.option(
        "--garbage",
        type=parse_size,
        metavar="SIZE",
        help="Overwritten data kept (1G).",
    ),
]


def writing_options(command: _Command) -> _Command:
    """Give a command the options whose names are the fields of host.Writing."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
