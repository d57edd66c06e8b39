# SPDX-License-Identifier: Apache-2.0
"""test_harness - medians, ratios, tables, markers; nothing is timed here."""

from __future__ import annotations

import pytest

from tests.bench import harness
from tests.bench.harness import Figure, Table


def test_rivals_take_turns():
    calls = []
    rivals = {name: lambda name=name: calls.append(name) or 1.0 for name in "ab"}
    figures = harness.in_turn(rivals, 3)
    assert calls == list("ababab")
    assert figures == {"a": Figure((1.0,) * 3), "b": Figure((1.0,) * 3)}


def test_one_slow_round_does_not_move_the_median():
    figure = Figure((1.0, 1.1, 50.0, 0.9, 1.0))
    assert figure.median == 1.0
    assert figure.spread == pytest.approx(49.1)


def test_units_can_be_changed_and_inverted():
    seconds = Figure((0.5, 0.25))
    assert seconds.scaled(1000).samples == (500, 250)
    assert seconds.inverted(4).samples == (8, 16)


def test_timed_returns_seconds_and_does_the_work():
    done = []
    assert harness.timed(lambda: done.append(1))() >= 0
    assert done == [1]


def test_samples_of_a_program_are_grouped():
    text = "core\trate\t1\ncore\tmemory\t7\ncore\trate\t3\nother\trate\t2\n"
    figures = harness.parse_samples(text)
    assert figures["core"]["rate"].samples == (1, 3)
    assert figures["core"]["memory"].median == 7
    assert list(figures) == ["core", "other"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (99.96, "100"),
        (123.4, "123"),
        (123456, "123456"),
    ],
)
def test_numbers_are_short(value, text):
    assert harness.short(value) == text


def test_ratio_is_of_medians():
    assert harness.ratio(Figure((1, 2, 9)), Figure((4,))) == "0.50x"
    assert harness.ratio(Figure((30,)), Figure((4,))) == "7.50x"
    assert harness.ratio(Figure((30,)), Figure((0.4,))) == "75.0x"


def test_table_lines_up():
    table = Table(["server", "M/s"])
    table.add("ours", "1.5")
    assert table.markdown().splitlines() == [
        "| server | M/s |",
        "| ------ | --: |",
        "| ours   | 1.5 |",
    ]


def test_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 cells under 2"):
        Table(["a", "b"]).add("1")


DOCUMENT = "# T\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nkept\n"


def test_section_is_replaced_and_the_rest_kept():
    once = harness.put_section(DOCUMENT, "x", "new")
    assert once == "# T\n<!-- bench:x -->\n\nnew\n\n<!-- /bench:x -->\nkept\n"
    assert harness.put_section(once, "x", "new") == once


@pytest.mark.parametrize(
    "document",
    [
        "no markers\n",
        "<!-- bench:x -->\n",
        DOCUMENT + DOCUMENT,
        "<!-- /bench:x -->\n<!-- bench:x -->\n",
    ],
)
def test_wrong_markers_are_refused(document):
    with pytest.raises(ValueError, match="section 'x'"):
        harness.put_section(document, "x", "new")
