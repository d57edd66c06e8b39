# SPDX-License-Identifier: Apache-2.0
"""test_serve - `obd serve`: what COMMAND gets, how it ends, what stays behind."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.registries import free_port
from tests.running import PATIENCE, Ran
from tests.stacks import SIZE, Image
from tests.tools import SYSTEM_PYTHON, environment, requires, tool

Obd = Callable[..., Ran]
OBD = str(Path(sys.executable).with_name("obd"))

pytestmark = requires("nbdkit", "nbdkit-python", "nbdinfo", "nbdcopy")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where `obd serve` puts its folders; they must be gone after every test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    while started:
        started.pop().kill()  # one that has ended does not mind
    assert list(folder.iterdir()) == []


# What start() has started.
started: list[subprocess.Popen[str]] = []


def test_command_reads_the_disk(obd: Obd, image: Image) -> None:
    ran = obd("serve", *image.layers, "--", "nbdcopy", "$uri", "-")
    assert ran.out == image.disk
    assert ran.err == ""


def test_environment_of_the_command(obd: Obd, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    script = 'test -S "$unixsocket"; echo "$uri|$unixsocket|$port|$exportname"'
    words = ("--socket", path, "--name", "a b")
    text = obd("serve", image.config, *words, "--", "sh", "-ec", script).text.strip()
    uri = f"nbd+unix:///a%20b?socket={str(path).replace(' ', '%20')}"
    assert text == f"{uri}|{path}||a b"
    assert not path.exists()


def test_line_of_shell(obd: Obd, image: Image) -> None:
    text = obd("serve", image.config, "--", 'nbdinfo --size "$uri" | cat').text
    assert int(text) == SIZE


def test_options_of_the_command_are_its_own(obd: Obd, image: Image) -> None:
    ran = obd("serve", image.config, "--", "echo", "--socket", "x", "--", "-h")
    assert ran.text == "--socket x -- -h\n"


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 41", 41), ("kill -9 $$", 137)]
)
def test_exit_code_is_that_of_the_command(
    obd: Obd, image: Image, script: str, code: int
) -> None:
    obd("serve", image.config, "--", "sh", "-c", script, code=code)


def test_command_that_does_not_exist(obd: Obd, image: Image) -> None:
    said = obd("serve", image.config, "--", "no-such-program", "x", code=1).err
    assert said == "obd: no-such-program: No such file or directory\n"


def test_tcp_port(obd: Obd, image: Image) -> None:
    port = free_port()
    script = 'echo "$uri"; nbdinfo --size "$uri"'
    words = ("--port", str(port), "--threads", "2")
    text = obd("serve", image.config, *words, "--", "sh", "-c", script).text
    assert text == f"nbd://127.0.0.1:{port}/\n{SIZE}\n"


def test_name_is_the_only_one(obd: Obd, image: Image) -> None:
    other = shlex.quote("nbd+unix:///other?socket=")
    script = f'nbdinfo --size "$uri" && ! nbdinfo --size {other}"$unixsocket"'
    words = ("--name", "disk")
    assert "'disk'" in obd("serve", image.config, *words, "--", "sh", "-c", script).err


def start(image: Image, *words: str) -> tuple[subprocess.Popen[str], str]:
    """Start `obd serve` without COMMAND and return it with the URI it printed."""
    process = subprocess.Popen(
        [OBD, "serve", str(image.config), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    started.append(process)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_without_command_until_a_signal(
    image: Image, tmp_path: Path, signum: int
) -> None:
    path = tmp_path / "disk.sock"
    process, uri = start(image, "--socket", str(path))
    copied = subprocess.run(
        [tool("nbdcopy"), uri, "-"], capture_output=True, check=True
    )
    process.send_signal(signum)
    _, said = process.communicate(timeout=PATIENCE)
    assert hashlib.sha256(copied.stdout).digest() == hashlib.sha256(image.disk).digest()
    assert (process.returncode, said) == (0, "")
    assert not path.exists()


def test_server_does_not_outlive_us(image: Image, temporary: Path) -> None:
    process, uri = start(image)
    process.kill()
    process.communicate()
    while _answers(uri):
        pass
    for folder in temporary.iterdir():  # killed, it could not tidy up
        shutil.rmtree(folder)


def _answers(uri: str) -> bool:
    done = subprocess.run([tool("nbdinfo"), uri], capture_output=True, check=False)
    return done.returncode == 0


def test_stale_socket_makes_room_and_a_live_one_does_not(
    obd: Obd, image: Image, tmp_path: Path
) -> None:
    path = tmp_path / "disk.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        words = ("--socket", path, "--", "true")
        assert "in use" in obd("serve", image.config, *words, code=1).err
    obd("serve", image.config, *words)
    path.write_text("a file")
    assert "in use" in obd("serve", image.config, *words, code=1).err
    assert path.read_text() == "a file"


def test_port_in_use(obd: Obd, image: Image) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        ran = obd("serve", image.config, "--port", port, "--", "true", code=1)
    assert "Address already in use" in ran.err
    assert ran.err.splitlines()[-1].startswith("obd: nbdkit ended with code 1")


def test_without_nbdkit(obd: Obd, image: Image) -> None:
    env = {"NBDKIT": "/no/such/nbdkit"}
    said = obd("serve", image.config, "--", "true", code=1, env=env).err
    assert said.startswith("obd: /no/such/nbdkit is not installed")
    assert said.count("\n") == 1


def test_without_the_python_plugin(obd: Obd, image: Image, tmp_path: Path) -> None:
    fake = tmp_path / "nbdkit"
    fake.write_text(f"#!/bin/sh\n{tool('nbdkit')} no-such-plugin 2>/dev/null\n")
    fake.chmod(0o755)
    env = {"NBDKIT": str(fake)}
    said = obd("serve", image.config, "--", "true", code=1, env=env).err
    assert "apt-get install nbdkit-plugin-python" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--socket", "x", "--port", "10809"),
        ("--bind", "::1"),
        ("--port", "0"),
        ("--threads", "0"),
    ],
)
def test_asked_wrongly(obd: Obd, image: Image, words: tuple[str, ...]) -> None:
    obd("serve", image.config, *words, "--", "true", code=2)


def test_terminal_interrupt_is_for_the_command(image: Image) -> None:
    script = "trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [OBD, "serve", str(image.config), "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 7


WRITE = "h.connect_uri(sys.argv[1]); h.pwrite(b'w' * 512, 0)"


def writer() -> list[str]:
    """Return a command that writes to $uri."""
    script = f"import nbd, sys; h = nbd.NBD(); {WRITE}"
    return [SYSTEM_PYTHON, "-c", script, "$uri"]


@requires("python3-libnbd")
def test_upper_is_made_and_written_to(obd: Obd, image: Image, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    sizes = ("--max-size", "1M", "--garbage", "64k")
    obd("serve", image.config, "--upper", upper, *sizes, "--", *writer())
    config = upper / "config.v1.json"
    assert json.loads(config.read_text())["obdengine"]["maxSize"] == 1 << 20
    found = obd("serve", config, "--", "nbdcopy", "$uri", "-").out
    assert found == b"w" * 512 + image.disk[512:]
    obd("serve", "--read-write", config, "--", *writer())
    obd("serve", config, "--", "nbdinfo", "--is", "readonly", "$uri")
    obd("serve", "-w", config, "--", "nbdinfo", "--is", "readonly", "$uri", code=2)


def test_a_folder_with_an_upper(obd: Obd, image: Image, tmp_path: Path) -> None:
    obd("create", image.config, tmp_path / "machine")
    size = ["--", "nbdinfo", "--size", "$uri"]
    assert obd("serve", tmp_path / "machine", *size).text == f"{len(image.disk)}\n"


def test_nbdkit_that_ends_after_it_has_said_its_pid(
    obd: Obd, image: Image, tmp_path: Path
) -> None:
    fake = tmp_path / "nbdkit"
    fake.write_text(f"""#!/bin/sh
case "$*" in *--pidfile*) ;; *) exec {tool("nbdkit")} "$@" ;; esac
while [ "$1" != --pidfile ]; do shift; done
echo $$ >"$2"
exit 1
""")
    fake.chmod(0o755)
    words = [image.config, "--", "echo", "it runs"]
    ran = obd("serve", *words, code=1, env={"NBDKIT": str(fake)})
    assert "ended with code 1 before it was ready" in ran.err
    assert "it runs" not in ran.text


def test_control_socket(obd: Obd, image: Image, tmp_path: Path) -> None:
    upper, control = tmp_path / "upper", tmp_path / "control"
    words = ("--upper", upper, "--control", control)
    ask = f"{shlex.quote(OBD)} snapshot --control {shlex.quote(str(control))}"
    obd("serve", image.config, *words, "--", ask)
    assert len(json.loads((upper / "config.v1.json").read_text())["lowers"]) == 4
    assert not control.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--read-write"], 2, "the image has no writable layer"),
        (["--form", "sparse"], 2, "--form goes with --upper"),
        (["--max-size", "1G"], 2, "go with --upper or --read-write"),
        (["--upper", "/dev/null/x"], 1, "/dev/null/x"),
        (["--upper", "x", "--garbage", "much"], 2, "'much' is not a size"),
    ],
)
def test_wrong_words_about_writing(
    obd: Obd, image: Image, words: list[str], code: int, said: str
) -> None:
    ran = obd("serve", image.config, *words, "--", "true", code=code)
    assert said in ran.err


def test_what_a_service_file_says_in_vain(
    obd: Obd, image: Image, tmp_path: Path
) -> None:
    service = tmp_path / "overlaybd.json"
    words = ("--engine", "native", "--service", service, image.config)
    for enable, said in ((True, 1), (False, 0)):
        service.write_text(json.dumps({"gzipCacheConfig": {"enable": enable}}))
        err = obd("serve", *words, "--", "true").err
        assert err.count("note: gzipCacheConfig has no effect") == said
