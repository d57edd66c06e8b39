# SPDX-License-Identifier: Apache-2.0
"""test_failures - what is wrong is one sentence, at the start where possible."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nbd import programs
from tests.running import PATIENCE, Export, ServerFailed
from tests.stacks import Image, block_offset
from tests.tools import PLUGIN, environment, requires, tool

Served = Callable[..., Export]

pytestmark = requires("nbdinfo", "nbdcopy")


def refusal(served: Served, *keys: str) -> str:
    """Return what nbdkit said when it did not start."""
    with pytest.raises(ServerFailed) as failed:
        served(*keys)
    text = str(failed.value)
    assert "Traceback" not in text
    assert text.count("\n") <= 1, text
    return text


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], "config=IMAGE"),
        (["config=a", "dir=b"], "either"),
        (["dir=/", "export=x"], "export="),
        (["colour=red"], "unknown key colour="),
        (["dir=/", "upper=x"], "upper= goes with config="),
        (["config=a", "form=sparse"], "form= goes with upper="),
        (["config=a", "upper=b", "form=dense"], "append or sparse"),
        (["config=a", "max-size=1G"], "are for writing"),
        (["config=a", "upper=b", "garbage=much"], "'much' is not a size"),
        (["config=a", "readonly=maybe"], "readonly=maybe"),
        (["config=a", "try=maybe"], "try=maybe"),
        (["config=docker://host/image:tag"], "full name of a host"),
        (["config=/no/such/file"], "/no/such/file"),
        (["dir=/no/such/folder"], "/no/such/folder"),
    ],
)
def test_keys(served: Served, keys: list[str], said: str) -> None:
    assert said in refusal(served, *keys)


def test_who_need_not_try_finds_it_later(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "layer.obd"
    path.write_bytes(bytes(10_000))
    export = served(f"config={path}", "try=false")
    assert export.process.wait(PATIENCE) == 1
    assert str(path) in export.log()


def test_damaged_header_is_found_at_the_start(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "layer.obd"
    path.write_bytes(bytes(10_000))
    assert str(path) in refusal(served, f"config={path}")


def test_wrong_configuration(served: Served, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "config.v1.json"
    lowers = [{"file": str(image.layers[0])}, {"file": 7}]
    path.write_text(json.dumps({"lowers": lowers}))
    assert "lowers[1].file" in refusal(served, f"config={path}")


@requires("python3-libnbd")
def test_damaged_block(served: Served, image: Image, damaged: Path) -> None:
    """The client gets EIO, the log gets file and offset, the rest stays readable."""
    layers = [image.layers[0], damaged, image.layers[2]]
    export = served(*(f"config={path}" for path in layers))
    script = (
        "h.connect_uri(sys.argv[1])\n"
        "failed = 0\n"
        "for at in range(0, h.get_size(), 4096):\n"
        "    n = min(4096, h.get_size() - at)\n"
        "    try:\n"
        "        h.pread(n, at)\n"
        "    except nbd.Error as error:\n"
        "        assert error.errno == 'EIO', error\n"
        "        failed += 1\n"
        "print(failed, h.get_size() // 4096)\n"
    )
    failed, blocks = map(int, programs.libnbd(script, export.uri).split())
    assert 0 < failed < blocks / 2
    assert f"{damaged}: offset {block_offset(image)}" in export.log()
    assert "Traceback" not in export.log()


def test_place_in_the_program_with_verbose(
    served: Served, image: Image, damaged: Path
) -> None:
    export = served(f"config={damaged}", options=["--verbose"])
    programs.failure("nbdcopy", export.uri, "null:")
    assert "Traceback" in export.log()


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_engine_that_cannot_be_imported(image: Image, path: str) -> None:
    done = subprocess.run(
        [tool("nbdkit"), "-f", "-U", "-", "python", PLUGIN, f"config={image.config}"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert f"set PYTHONPATH={PLUGIN.parent.parent}" in line


def test_what_the_sentence_says_helps(image: Image) -> None:
    command = [tool("nbdkit"), "-U", "-", "python", str(PLUGIN)]
    command += [f"config={image.config}", "--run", 'nbdinfo --size "$uri"']
    bare = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, env=bare, capture_output=True, text=True)
    cure = done.stderr.split("set PYTHONPATH=")[1].split(",")[0]
    cured = {**bare, "PYTHONPATH": cure}
    done = subprocess.run(command, env=cured, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(image.disk)


def test_relative_path_and_background(image: Image, tmp_path: Path) -> None:
    """In the background nbdkit changes to /: a relative path must still do."""
    socket, pid = tmp_path / "s", tmp_path / "pid"
    command = [tool("nbdkit"), "-U", str(socket), "-P", str(pid), "python", str(PLUGIN)]
    subprocess.run(
        [*command, "config=config.v1.json"],
        cwd=image.config.parent,
        env=environment(),
        check=True,
    )
    try:
        uri = f"nbd+unix:///?socket={socket}"
        assert programs.output("nbdcopy", uri, "-") == image.disk
    finally:
        os.kill(int(pid.read_text()), 15)
