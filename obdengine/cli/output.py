# SPDX-License-Identifier: Apache-2.0
"""
output - how facts reach a person or a program: text, JSON, progress.

Texts that come out of an image go through printable(): a commit message must
not be able to steer the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from tqdm import tqdm

from obdengine.units import human_size

__all__ = [
    "Progress",
    "json_option",
    "json_text",
    "pairs",
    "printable",
    "progress_bar",
    "progress_option",
    "size_text",
]

# Called with the bytes done and the bytes in all.
Progress = Callable[[int, int], None]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """Give a command `--output human|json`, as the argument as_json."""
    return click.option(
        "--output",
        "as_json",
        type=click.Choice(["human", "json"]),
        default="human",
        callback=lambda _context, _option, value: value == "json",
        help="How to print the facts (human by default).",
    )(command)


def progress_option(command: _Command) -> _Command:
    """Give a command `--no-progress`, as the argument progress."""
    return click.option(
        "--no-progress",
        "progress",
        is_flag=True,
        callback=lambda _context, _option, value: not value,
        help="Show no progress bar, not even on a terminal.",
    )(command)


@contextmanager
def progress_bar(label: str, wanted: bool) -> Iterator[Progress | None]:
    """Yield what draws progress on standard error, or None when none is due."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    with tqdm(
        desc=label, unit="B", unit_scale=True, unit_divisor=1024, leave=False
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def json_text(facts: Any) -> str:
    """Return facts as indented JSON, as qemu-img prints it."""
    return json.dumps(facts, indent=4)


def printable(text: str) -> str:
    """Return text with everything that is not a printable character escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def size_text(size: int) -> str:
    """Return a size for people who may want to calculate with it."""
    if size < 1024:
        return f"{size} bytes"
    return f"{human_size(size)} ({size} bytes)"


def pairs(rows: Iterable[tuple[str, str]], indent: str = "") -> str:
    """Return "name: value" lines with the values below each other."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 1
    return "\n".join(
        f"{indent}{name + ':':<{width}}  {printable(value)}" for name, value in rows
    )
