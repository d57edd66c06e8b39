# SPDX-License-Identifier: Apache-2.0
"""test_docs - the man pages and docs/errors.md say what the program does."""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from obdengine import errors
from obdengine.cli.main import obd
from tests.tools import PLUGIN, ROOT, requires, tool

MAN = ROOT / "docs" / "man"
PAGES = sorted(MAN.glob("*.1"))


def sections(page: Path) -> dict[str, list[str]]:
    """Return the lines of each .SH and .SS of a page, escapes undone."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in page.read_text().splitlines():
        plain = re.sub(r"\\f.", "", line).replace("\\-", "-")
        if plain.startswith((".SH ", ".SS ")):
            lines = found[plain[4:]] = []
        lines.append(plain)
    return found


def tags(lines: list[str]) -> list[str]:
    """Return the heads of a list: the line after each .TP."""
    return [tag for macro, tag in pairwise(lines) if macro == ".TP"]


def options_in_page(lines: list[str]) -> set[str]:
    found = re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", "\n".join(tags(lines)))
    return set(found)


def options_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {
        name
        for option in command.get_params(context)
        if isinstance(option, click.Option)
        for name in option.opts
    }


CONTEXT = click.Context(obd)
COMMANDS = obd.list_commands(CONTEXT)


def command(name: str) -> click.Command:
    found: click.Command | None = obd
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(CONTEXT, word)
    assert found is not None
    return found


def all_commands(group: click.Group = obd, above: str = "") -> Iterator[str]:
    """Yield the name of each command, also of those in groups: "vm start"."""
    for word in group.list_commands(CONTEXT):
        found = group.get_command(CONTEXT, word)
        yield f"{above}{word}"
        if isinstance(found, click.Group):
            yield from all_commands(found, f"{above}{word} ")


# Those of some groups are in the section of the group, in words.
SECTIONS = sections(MAN / "obd.1")
IN_SECTIONS = [n for n in all_commands() if " " not in n or f"obd {n}" in SECTIONS]


@pytest.mark.parametrize("name", IN_SECTIONS)
def test_options_of_a_command(name: str) -> None:
    in_page = options_in_page(SECTIONS[f"obd {name}"])
    assert in_page == options_of(command(name)) - {"--help", "-h"}


def test_options_of_obd_itself() -> None:
    in_page = options_in_page(sections(MAN / "obd.1")["OPTIONS"])
    assert in_page == options_of(obd) | {"-h"}


def test_synopsis_has_every_command() -> None:
    synopsis = "\n".join(sections(MAN / "obd.1")["SYNOPSIS"])
    assert set(re.findall(r"^obd (\w+)", synopsis, re.M)) == set(COMMANDS)


def test_keys_of_the_plugin() -> None:
    in_page = re.findall(
        r"([\w-]+)=", "\n".join(tags(sections(MAN / "nbdkit-obd-plugin.1")["KEYS"]))
    )
    known = re.findall(r'^    "([\w-]+)": take_\w+,$', PLUGIN.read_text(), re.M)
    assert known
    assert set(in_page) == set(known)


@requires("man")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_renders_without_warnings(page: Path) -> None:
    command = [tool("man"), "--warnings=w", "-E", "UTF-8", "-l", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout) > 1000


def test_table_of_exceptions() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    table = {
        name: (number, int(code))
        for name, number, code in re.findall(
            r"^\| `(\w+)` \| (E\w+) \| (\d) \|", text, re.M
        )
    }
    known = {name: getattr(errors, name) for name in errors.__all__}
    assert set(table) == set(known)
    for name, kind in known.items():
        number, code = table[name]
        assert number == errno.errorcode[kind.errno]
        assert code == exit_code(kind)


def exit_code(kind: type[errors.ObdError]) -> int:
    if issubclass(kind, errors.UsageError):
        return 2
    return 3 if issubclass(kind, errors.FormatError) else 1


# -- Commands in what people read

GUIDES = [ROOT / "README.md", ROOT / "docs/vms.md", ROOT / "docs/containers.md"]
QUOTED = re.compile(r"(?:^    |`|\$ )(obd [a-z][^`\n#]*)", re.M)


SCRIPTS = re.compile(r"\b(?:images|tests|systemd)/[\w./]+\w")


def test_guides_use_words_that_there_are() -> None:
    said = [(p.name, line) for p in GUIDES for line in QUOTED.findall(p.read_text())]
    assert len(said) > 80
    for page, line in said:
        words = re.split(r"\s--\s", line)[0].split()
        found: click.Command = obd
        rest = words[1:]
        while isinstance(found, click.Group) and rest:
            known = found.get_command(CONTEXT, rest[0])
            assert known, (page, line)
            found, rest = known, rest[1:]
        given = {word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)}
        assert given <= options_of(found), (page, line)


def test_guides_name_scripts_that_there_are() -> None:
    for page in GUIDES:
        for path in re.findall(
            r"\b(?:images|tests|systemd)/[\w./]+\w", page.read_text()
        ):
            assert (ROOT / path).exists(), (page, path)
