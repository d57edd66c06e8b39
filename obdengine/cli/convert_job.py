# SPDX-License-Identifier: Apache-2.0
"""
convert_job - what `obd convert` was asked for, and what a converter is.

A converter is one way from a kind of source to a kind of target. It says which
jobs are its own and which options it understands; all others are refused
before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["Converter", "Facts", "Job", "Option", "STREAM"]

STREAM = "-"

# What is printed of the result, with stable keys; sizes in bytes.
Facts = dict[str, Any]

# A click.option(...), not yet given to a command.
Option = Callable[[Any], Any]


@dataclass(frozen=True)
class Job:
    """What is to be converted into what.

    Attributes:
        sources: the words for SRC, at least one.
        target: the word for DST.
        source_format: what -f says, None when it is to be found out.
        target_format: what -O says, "obd" when it says nothing.
        options: of all converters, by their names in Python; those that were
            not given have their defaults.
        progress: whether a progress bar is welcome.
        context: of the command line, to ask which options were given.
    """

    sources: tuple[str, ...]
    target: str
    source_format: str | None
    target_format: str
    options: dict[str, Any]
    progress: bool
    context: click.Context

    def chosen(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of the options that have these names."""
        return {name: self.options[name] for name in names}


@dataclass(frozen=True)
class Converter:
    """One way from a kind of source to a kind of target.

    Attributes:
        name: for the sentence "--uuid does not go with NAME".
        matches: whether the job is for it; the first in the table is taken.
        run: does the job and returns what there is to say of the result, or
            None when all has been said; raises as every command does.
        takes: options, by their names in Python, that it understands.
        options: which it adds to the command; they must be in takes as well.
        sources: formats that it adds to what -f may say.
        targets: formats that it adds to what -O may say.
    """

    name: str
    matches: Callable[[Job], bool]
    run: Callable[[Job], Facts | None]
    takes: frozenset[str] = frozenset()
    options: tuple[Option, ...] = ()
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
