# SPDX-License-Identifier: Apache-2.0
"""test_exports - one server for a folder of images, and export names in general."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nbd import programs
from tests.running import Export
from tests.stacks import Image
from tests.tools import requires

Served = Callable[..., Export]

pytestmark = requires("nbdinfo", "nbdcopy")


@pytest.fixture
def folder(image: Image, tmp_path: Path) -> Path:
    """Three images by name, and things that are none."""
    folder = tmp_path / "images"
    shutil.copytree(image.config.parent, folder / "stack")
    shutil.copy(image.layers[0], folder / "base.obd")
    shutil.copy(image.layers[1], folder / "app one.lsmt")
    (folder / "notes.txt").write_text("none")
    (folder / "empty").mkdir()
    (folder / "broken.obd").write_bytes(bytes(9000))
    return folder


def names(export: Export) -> list[str]:
    words = ("--list", "--no-content", "--json", export.uri)
    found = json.loads(programs.output("nbdinfo", *words))
    return [item["export-name"] for item in found["exports"]]


def test_list(served: Served, folder: Path) -> None:
    (folder / "broken.obd").unlink()
    assert names(served(f"dir={folder}")) == ["app one", "base", "stack"]


def test_each_by_its_name(served: Served, folder: Path, image: Image) -> None:
    export = served(f"dir={folder}")
    assert programs.output("nbdcopy", export.uri_of("stack"), "-") == image.disk
    for name, path in (("base", image.layers[0]), ("app%20one", image.layers[1])):
        alone = served(f"config={path}").uri
        assert programs.sha256(export.uri_of(name)) == programs.sha256(alone)


def test_image_that_comes_later(served: Served, folder: Path, image: Image) -> None:
    export = served(f"dir={folder}")
    shutil.copy(image.layers[2], folder / "late.obd")
    assert int(programs.output("nbdinfo", "--size", export.uri_of("late"))) > 0


def test_image_that_is_replaced(served: Served, folder: Path, image: Image) -> None:
    export = served(f"dir={folder}")
    before = programs.sha256(export.uri_of("base"))
    shutil.copy(image.layers[1], folder / "next")
    os.replace(folder / "next", folder / "base.obd")  # noqa: PTH105
    assert programs.sha256(export.uri_of("base")) != before


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "notes.txt",
        "empty",
        "base.obd",
        "..",
        ".",
        "../images/base",
        "stack/../base",
        "stack%2Flayer0",
        "%2Fetc%2Fpasswd",
    ],
)
def test_other_names_are_refused(served: Served, folder: Path, name: str) -> None:
    export = served(f"dir={folder}")
    said = programs.failure("nbdinfo", "--size", export.uri_of(name))
    assert "No such file or directory" in said
    assert "Traceback" not in export.log()
    assert f"{folder}: there is no image" in export.log()


def test_without_a_name(served: Served, folder: Path, tmp_path: Path) -> None:
    export = served(f"dir={folder}")
    programs.failure("nbdinfo", "--size", export.uri)
    assert "say which: app one, base, broken, stack" in export.log()
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(folder / "base.obd", one)
    assert int(programs.output("nbdinfo", "--size", served(f"dir={one}").uri)) > 0


def test_broken_image_spoils_only_itself(served: Served, folder: Path) -> None:
    export = served(f"dir={folder}")
    programs.failure("nbdinfo", "--size", export.uri_of("broken"))
    assert "broken.obd" in export.log()
    assert int(programs.output("nbdinfo", "--size", export.uri_of("base"))) > 0


def test_config_takes_any_name_unless_one_is_given(
    served: Served, image: Image
) -> None:
    free = served(f"config={image.config}")
    assert int(programs.output("nbdinfo", "--size", free.uri_of("whatever"))) > 0
    named = served(f"config={image.config}", "export=disk")
    assert names(named) == ["disk"]
    for uri in (named.uri, named.uri_of("disk")):
        assert int(programs.output("nbdinfo", "--size", uri)) > 0
    programs.failure("nbdinfo", "--size", named.uri_of("other"))
    assert "'disk'" in named.log()


@requires("python3-libnbd")
def test_clients_that_come_and_go(served: Served, folder: Path, image: Image) -> None:
    """The last one out closes the image while the next one is coming in."""
    script = (
        "import threading\n"
        "uri, want, seen = sys.argv[1], open(sys.argv[2], 'rb').read(70000), []\n"
        "def visit():\n"
        "    for _ in range(15):\n"
        "        h = nbd.NBD()\n"
        "        h.connect_uri(uri)\n"
        "        seen.append(h.pread(70000, 0) == want)\n"
        "        h.shutdown()\n"
        "threads = [threading.Thread(target=visit) for _ in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "assert seen == [True] * 120, seen\n"
    )
    truth = folder / "truth"
    truth.write_bytes(image.disk)
    export = served(f"dir={folder}")
    programs.libnbd(script, export.uri_of("stack"), str(truth))
    assert export.stop() == 0
    assert export.log() == ""
