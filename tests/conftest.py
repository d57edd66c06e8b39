# SPDX-License-Identifier: Apache-2.0
"""
conftest - fixtures that several rooms share, and the rule for skipping.

A fixture that only one room needs lives in that room's own conftest.
"""

from __future__ import annotations

import lzma
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import zstandard

from tests import registries, running, tools

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    print_blob=True,
    # A machine that is busy is no fault of the test.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("soak", max_examples=3000, deadline=None)
hypothesis.settings.load_profile(
    os.environ.get("OBD_HYPOTHESIS", "ci" if os.environ.get("CI") else "dev")
)

# Who was started in the background by a shell has its Ctrl-C ignored, who was by
# nohup its hang-ups, and so have the programs that it starts: they must have
# them for those tests that send them.
for signum, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(signum) is signal.SIG_IGN:
        signal.signal(signum, usual)

_UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".zst": lambda raw: zstandard.ZstdDecompressor().decompressobj().decompress(raw),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is marked with requires() for what is not here."""
    for mark in item.iter_markers("requires"):
        tools.require(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    """Look at every report for a skip that must not be."""
    report = yield
    tools.refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Do the same for a module that skips itself while it is collected."""
    report = yield
    tools.refuse_skip(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_remembered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test find what obd keeps on this machine, from a run before or not."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OBD_CACHE", "OBD_RUN", "OBD_STATE", "XDG_CACHE_HOME"):
            patch.setenv(name, str(folder / name.lower()))
        yield


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden images, unpacked: blocks-a/, ext4-c/, turbo-c/. Do not write."""
    source = tools.DATA / "golden"
    target = tmp_path_factory.mktemp("golden")
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        elif path.suffix in _UNPACKERS:
            raw = _UNPACKERS[path.suffix](path.read_bytes())
            copy.with_suffix("").write_bytes(raw)
        else:
            shutil.copyfile(path, copy)
    return target


@pytest.fixture
def obd() -> Callable[..., running.Ran]:
    """Return what runs the command as a user does.

    As in: obd("info", path, code=3).err
    """
    return running.run_obd


@pytest.fixture
def served(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[..., running.Export]:
    """Return what starts nbdkit with our plugin; its servers end with the test.

    As in: served("config=x.json", options=["--filter=log"]).uri
    """
    tools.require("nbdkit", "nbdkit-python")

    def start(*keys: str, **more: object) -> running.Export:
        export = running.start_nbdkit(tmp_path, *keys, **more)
        request.addfinalizer(export.stop)
        return export

    return start


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    """A docker-registry on loopback, open to all: f"docker://{registry.host}/name"."""
    tools.require("docker-registry")
    with registries.Registry(tmp_path_factory.mktemp("registry")) as started:
        yield started
