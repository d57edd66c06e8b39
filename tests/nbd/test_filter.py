# SPDX-License-Identifier: Apache-2.0
"""test_filter - what goes past Python, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.nbd import disks, programs
from tests.running import Export, start_nbdkit
from tests.stacks import Image
from tests.tools import nbdkit_filter, requires

Served = Callable[..., Export]

pytestmark = requires("nbdkit-python", "nbdcopy", "python3-libnbd")

EVERYTHING = """
h.add_meta_context('base:allocation')
h.connect_uri(sys.argv[1])
h.pread(5000, 3)
h.cache(5000, 3)
h.block_status(65536, 0, lambda *_: 0)
if not h.is_read_only():
    h.pwrite(b'x' * 5000, 3)
    h.pwrite(b'y' * 512, 0, nbd.CMD_FLAG_FUA)
    h.zero(4096, 4096)
    h.trim(4096, 8192)
    h.flush()
h.shutdown()
"""
CALLS = ["pread", "pwrite", "zero", "trim", "flush", "cache", "extents"]


def python_calls(export: Export) -> list[str]:
    """Return the requests that reached the plugin, by nbdkit -v."""
    log = export.log()
    return [call for call in CALLS if f"debug: python: {call}" in log]


def test_resident_requests_do_not_reach_python(
    served: Served, image: Image, tmp_path: Path
) -> None:
    keys = [f"config={image.config}", f"upper={tmp_path / 'upper'}"]
    export = served(*keys, options=["-v"])
    programs.libnbd(EVERYTHING, export.uri)
    assert python_calls(export) == []
    content = disks.content(export)
    assert content[:4096] == b"y" * 512 + b"x" * 3584
    assert content[4096:12288] == bytes(8192)
    assert content[12288:] == image.disk[12288:]


def test_what_fails_is_asked_of_python(
    served: Served, image: Image, damaged: Path
) -> None:
    export = served(f"config={damaged}", options=["-v"])
    programs.failure("nbdcopy", export.uri, "null:")
    assert python_calls(export) == ["pread"]
    assert f"{damaged}: offset" in export.log()


def test_filter_behind_ours_is_not_passed_by(image: Image, tmp_path: Path) -> None:
    options = ["-v", f"--filter={nbdkit_filter()}", "--filter=cow"]
    export = start_nbdkit(tmp_path, f"config={image.config}", options=options)
    try:
        programs.libnbd(EVERYTHING.replace("h.zero(", "h.trim("), export.uri)
        assert disks.content(export)[:512] == b"y" * 512
        assert "pread" in python_calls(export)
    finally:
        export.stop()


def test_filters_before_ours_see_every_request(image: Image, tmp_path: Path) -> None:
    log = tmp_path / "requests"
    options = ["--filter=log", f"--filter={nbdkit_filter()}"]
    export = start_nbdkit(
        tmp_path, f"config={image.config}", f"logfile={log}", options=options
    )
    try:
        programs.libnbd(EVERYTHING, export.uri)
    finally:
        export.stop()
    assert " Read " in log.read_text()


def test_other_plugins_are_left_alone(tmp_path: Path) -> None:
    options = [f"--filter={nbdkit_filter()}"]
    export = start_nbdkit(tmp_path, "1M", options=options, plugin=["memory"])
    try:
        programs.libnbd(EVERYTHING, export.uri)
        assert disks.content(export)[:512] == b"y" * 512
    finally:
        export.stop()
