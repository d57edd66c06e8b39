# SPDX-License-Identifier: Apache-2.0
"""test_crash - nbdkit is killed while clients write: what was flushed is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nbd import disks, programs, stamps
from tests.nbd.disks import FORMS, MIB
from tests.running import Export
from tests.tools import PLUGIN, requires

Served = Callable[..., Export]

pytestmark = requires("nbdcopy", "python3-libnbd")


class Rounds:
    """A disk that is served, written to and killed again and again."""

    def __init__(self, served: Served, folder: Path, *keys: str) -> None:
        self.served = served
        self.folder = folder
        lower = folder / "lower.lsmt"
        self.disk = disks.lower(lower, 16 * MIB)
        self.keys = (f"config={lower}", f"upper={folder / 'upper'}", *keys)

    def run(self, seed: int, requests: int, plugin: Path = PLUGIN) -> stamps.Verdict:
        """Write, crash, reopen, judge; what is there then is the next beginning."""
        export = self.served(*self.keys, plugin=["python", str(plugin)])
        assert disks.content(export) == self.disk
        plan = {"seed": seed, "requests": requests, "kill": export.process.pid}
        rows = programs.storm(self.folder, export.uri, **plan)
        export.kill()
        again = self.served(*self.keys)
        found = disks.content(again)
        verdict = stamps.judge(self.disk, rows, found)
        assert disks.content(again) == found
        assert again.stop() == 0
        self.disk = found
        return verdict

    def judge(self, seed: int, requests: int = 1200) -> None:
        """Do the same, and fail when what was promised is not there."""
        verdict = self.run(seed, requests)
        assert not verdict.wrong, verdict.wrong[:5]
        assert verdict.written > 1000


@pytest.mark.parametrize("form", FORMS)
def test_what_was_flushed_survives(served: Served, tmp_path: Path, form: str) -> None:
    rounds = Rounds(served, tmp_path, f"form={form}")
    for seed in range(3):
        rounds.judge(seed)


def test_server_that_lies_about_flushes_is_found_out(
    served: Served, tmp_path: Path
) -> None:
    """A plugin that flushes nothing: if this passed, the others would show nothing."""
    liar = tmp_path / "liar.py"
    lies = PLUGIN.read_text().replace("h.device.flush()", "pass")
    # Past Python nobody lies.
    liar.write_text(lies.replace("return offer(", "return ("))
    rounds = Rounds(served, tmp_path)
    assert len(rounds.run(1, 1200, liar).wrong) > 1000


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("garbage", ["0", "1M", "1G"])
def test_twenty_times(served: Served, tmp_path: Path, form: str, garbage: str) -> None:
    rounds = Rounds(served, tmp_path, f"form={form}", f"garbage={garbage}")
    for seed in range(20):
        rounds.judge(100 + seed, requests=3000 + 500 * seed)
