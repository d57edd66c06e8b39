# SPDX-License-Identifier: Apache-2.0
"""test_main - how `obd` ends: exit codes, one sentence, signals, broken pipes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import Ran
from tests.stacks import Image
from tests.tools import environment

Obd = Callable[..., Ran]
OBD = str(Path(sys.executable).with_name("obd"))


def one_sentence(ran: Ran) -> str:
    """Return what was said, after checking that it is one line of ours."""
    (line,) = ran.err.splitlines()
    assert line.startswith("obd: ")
    return line


def test_help_lists_the_commands(obd: Obd) -> None:
    text = obd("--help").text
    for name in ("info", "check", "map", "convert", "serve", "doctor"):
        assert f"  {name} " in text
    assert obd("info", "-h").text.startswith("Usage: obd info")


def test_version(obd: Obd) -> None:
    assert obd("--version").text.startswith("obd, version 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "frobnicate"),
        (["info"], "IMAGE"),
        (["info", "--frob", "x"], "--frob"),
        (["--frob"], "--frob"),
        (["convert", "only-one"], "SRC"),
        (["info", "docker://host/repo:tag"], "full name of a host"),
        (["check", "docker://host:5000/Upper"], "lower case"),
        (["resize", "oci:dir:tag", "1G"], "of this machine"),
        (["copy", "a.obd", "b.obd"], "container image"),
        (["push", "a.obd", "oci:dir:tag"], "registry"),
        (["pull", "a.obd", "dir"], "not a container image"),
        (["map", "a.obd", "--start-offset", "x"], "size"),
        (["serve", "a.obd", "--"], "COMMAND"),
    ],
)
def test_asked_wrongly(obd: Obd, words: list[str], said: str) -> None:
    assert said in one_sentence(obd(*words, code=2))


@pytest.mark.parametrize("command", ["info", "check", "map", "serve"])
def test_missing_file(obd: Obd, command: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.obd"
    assert str(missing) in one_sentence(obd(command, missing, code=1))


@pytest.mark.parametrize("command", ["info", "map", "serve"])
def test_damaged_header(obd: Obd, command: str, tmp_path: Path) -> None:
    path = tmp_path / "no-image.obd"
    path.write_bytes(b"\1" * 8192)
    assert str(path) in one_sentence(obd(command, path, code=3))


def test_control_characters_do_not_reach_the_terminal(obd: Obd, tmp_path: Path) -> None:
    line = one_sentence(obd("info", tmp_path / "\x1b[2J\n", code=1))
    assert "\\x1b[2J\\n" in line


def test_debug_shows_the_place(tmp_path: Path) -> None:
    command = [OBD, "--debug", "info", str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("obd: ")


def test_reader_that_went_away(image: Image) -> None:
    process = subprocess.Popen(
        [OBD, "convert", "-O", "raw", *map(str, image.layers), "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == -signal.SIGPIPE
    assert said == b""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_and_leaves_nothing(signum: int, tmp_path: Path) -> None:
    target = tmp_path / "layer.obd"
    process = subprocess.Popen(
        [OBD, "convert", "-", str(target)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    # More than a pipe holds: when this returns, obd is reading.
    process.stdin.write(bytes(1 << 20))
    process.stdin.flush()
    time.sleep(0.2)
    process.send_signal(signum)
    _, said = process.communicate()
    assert process.returncode == -signum
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("redirection", "code"), [(">/dev/full", 1), (">&-", 0), (">/dev/null", 0)]
)
def test_standard_output_that_takes_nothing(
    image: Image, redirection: str, code: int
) -> None:
    line = f'"{OBD}" info "{image.config}" {redirection}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment())
    assert done.returncode == code
    assert done.stderr == (b"obd: No space left on device\n" if code else b"")
