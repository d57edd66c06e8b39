# SPDX-License-Identifier: Apache-2.0
"""
harness - rounds, medians, ratios and tables; it measures nothing itself.

A bench hands over functions that return one sample each, or the printed
samples of a C program, and gets figures; tables go between two markers of
docs/benchmarks.md and nowhere else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# A median of fewer is an anecdote.
ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """Samples of one thing, in one unit."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """How far the samples lie apart, as a part of the median."""
        return (max(self.samples) - min(self.samples)) / (self.median or 1.0)

    def scaled(self, factor: float) -> Figure:
        """Return the same in a unit that is factor times smaller."""
        return Figure(tuple(sample * factor for sample in self.samples))

    def inverted(self, dividend: float = 1.0) -> Figure:
        """Return dividend / sample of each: seconds for a rate, or back."""
        return Figure(tuple(dividend / sample for sample in self.samples))


def in_turn(
    rivals: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, Figure]:
    """Call every rival once a round and return the figures of each."""
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, rival in rivals.items():
            samples[name].append(rival())
    return {name: Figure(tuple(got)) for name, got in samples.items()}


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does the work and returns the seconds it took."""

    def sample() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return sample


def parse_samples(text: str) -> dict[str, dict[str, Figure]]:
    """Return the figures in a C program's output: by rival, then by what.

    Its lines are "rival TAB what TAB value", in order.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for line in text.splitlines():
        rival, what, value = line.split("\t")
        found.setdefault(rival, {}).setdefault(what, []).append(float(value))
    return {
        rival: {what: Figure(tuple(values)) for what, values in by_what.items()}
        for rival, by_what in found.items()
    }


def short(value: float) -> str:
    """Return value with three digits that count: 0.0123, 1.23, 12.3, 1230."""
    if value == 0:
        return "0"
    digits = 0
    while abs(value) * 10**digits < 99.95 and digits < 6:
        digits += 1
    return f"{value:.{digits}f}"


def ratio(value: Figure, base: Figure) -> str:
    """Return how many times base's median the value's is: "1.25x"."""
    times = value.median / base.median
    return f"{times:.2f}x" if times < 10 else f"{short(times)}x"


@dataclass
class Table:
    """Rows under a header; the first column is words, the others are numbers."""

    header: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row; ValueError when it does not fit the header."""
        if len(cells) != len(self.header):
            raise ValueError(f"{len(cells)} cells under {len(self.header)} headings")
        self.rows.append(list(cells))

    def markdown(self) -> str:
        """Return it in Markdown, with columns that also line up for the eye."""
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(3, *map(len, column)) for column in columns]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [self.header, rule, *self.rows]
        return "\n".join(_line(cells, widths) for cells in lines)


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(text.rjust(w) for text, w in others)]
    return f"| {' | '.join(padded)} |"


def put_section(document: str, name: str, body: str) -> str:
    """Return the document with body between the markers of section `name`.

    Raises ValueError unless both markers are there once, in order.
    """
    begin, end = f"<!-- bench:{name} -->\n", f"<!-- /bench:{name} -->\n"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the markers of section {name!r} are not there once each")
    before, rest = document.split(begin)
    if end not in rest:
        raise ValueError(f"section {name!r} ends before it begins")
    after = rest.split(end)[1]
    return f"{before}{begin}\n{body.strip()}\n\n{end}{after}"
