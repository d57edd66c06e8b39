# SPDX-License-Identifier: Apache-2.0
"""paths - options and arguments that name files, which need not be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["control_option", "path_argument", "path_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_PATH: click.Path = click.Path(path_type=Path)


def path_option(
    *names: str, metavar: str, help: str, required: bool = False
) -> Callable[[_Command], _Command]:
    """Return an option that is a Path, None when it is not given."""
    return click.option(
        *names, type=_PATH, required=required, metavar=metavar, help=help
    )


def path_argument(
    name: str, metavar: str | None = None, *, several: bool = False
) -> Callable[[_Command], _Command]:
    """Return an argument that is a Path; several: a tuple of them, at least one."""
    count = -1 if several else 1
    return click.argument(name, nargs=count, required=True, type=_PATH, metavar=metavar)


def control_option(
    help: str = "Tell the server that listens there to do it.",
    *,
    required: bool = False,
) -> Callable[[_Command], _Command]:
    """Return `--control`, the socket of a server that runs."""
    return path_option("--control", metavar="SOCKET", help=help, required=required)
