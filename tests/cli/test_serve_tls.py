# SPDX-License-Identifier: Apache-2.0
"""test_serve_tls - exports that only those with keys can read, and other servers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import stacks
from tests.registries import free_port
from tests.running import run_obd
from tests.tools import environment, requires, tool

pytestmark = requires("nbdkit", "nbdkit-python", "nbdinfo")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> stacks.Image:
    return stacks.make(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's certificate for this machine."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        command = [tool("openssl"), *words]
        subprocess.run(command, cwd=folder, check=True, stderr=-3, env=environment())

    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem",
            "-subj", "/CN=test", "-days", "2")  # fmt: skip
    openssl("req", *key, "-keyout", "server-key.pem", "-out", "server.csr",
            "-subj", "/CN=localhost")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey",
            "ca-key.pem", "-CAcreateserial", "-out", "server-cert.pem", "-days", "2",
            "-extfile", "names")  # fmt: skip
    return folder


@pytest.fixture
def psk(tmp_path: Path) -> Path:
    path = tmp_path / "keys.psk"
    path.write_text(f"root:{'5a' * 32}\nnobody:{'a5' * 32}\n")
    return path


ENGINES = [
    [],
    pytest.param(
        ["--engine", "qemu-storage-daemon"], marks=requires("qemu-storage-daemon")
    ),
]
engines = pytest.mark.parametrize("engine", ENGINES, ids=["nbdkit", "qemu"])


def served(image: stacks.Image, *words: str | Path, code: int = 0) -> str:
    ran = run_obd("serve", *words, image.config, "--", "sh", "-c", SIZE, code=code)
    return ran.text + ran.err


SIZE = 'echo "$uri"; nbdinfo --size "$uri"'


@engines
def test_keys(
    image: stacks.Image, psk: Path, tmp_path: Path, engine: list[str]
) -> None:
    said = served(image, *engine, "--socket", tmp_path / "s", "--tls-psk", psk)
    assert said.startswith("nbds+unix://root@/?tls-psk-file=")
    assert said.endswith(f"{stacks.SIZE}\n")


@engines
@requires("openssl")
def test_certificates(
    image: stacks.Image, certificates: Path, unused_port: int, engine: list[str]
) -> None:
    words = [*engine, "--port", str(unused_port), "--tls-certificates", certificates]
    said = served(image, *words)
    assert said.startswith(f"nbds://127.0.0.1:{unused_port}/?tls-certificates=")
    assert said.endswith(f"{stacks.SIZE}\n")


@pytest.fixture
def unused_port() -> int:
    return free_port()


@engines
def test_who_has_no_keys_gets_nothing(
    image: stacks.Image, psk: Path, tmp_path: Path, engine: list[str]
) -> None:
    plain = f'nbdinfo --size "nbd+unix:///?socket={tmp_path}/s" && echo GOT-IT'
    words = [*engine, "--socket", tmp_path / "s", "--tls-psk", psk, image.config]
    ran = run_obd("serve", *words, "--", "sh", "-c", plain, code=None)
    assert ran.code != 0
    assert "GOT-IT" not in ran.text


ON_TOP = ["--engine", "qemu-storage-daemon"]

BAD = {
    "leaves the host": (["--port", "1", "--bind", "0.0.0.0"], "anybody could read"),
    "both": (["--tls-psk", "PSK", "--tls-certificates", "."], "exclude each other"),
    "off and on": (["--tls-psk", "PSK", "--no-tls"], "goes without"),
    "verify": (["--tls-verify-peer"], "goes with --tls-certificates"),
    "native": (["--engine", "native", "--tls-psk", "PSK"], "goes with nbdkit"),
    "as": (["--as", "fuse"], "goes with --engine"),
    "no place": ([*ON_TOP, "--as", "vhost-user-blk"], "needs --socket"),
    "no NBD": ([*ON_TOP, "--as", "fuse", "--socket", "s", "--tls-psk", "PSK"], "NBD"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense(image: stacks.Image, psk: Path, name: str) -> None:
    words, complaint = BAD[name]
    words = [str(psk) if word == "PSK" else word for word in words]
    ran = run_obd("serve", *words, image.config, "--", "true", code=2)
    assert complaint in ran.err


def test_without_tls_on_purpose(image: stacks.Image, unused_port: int) -> None:
    words = ["--port", str(unused_port), "--bind", "0.0.0.0", "--no-tls"]
    assert served(image, *words).endswith(f"{stacks.SIZE}\n")


@requires("qemu-storage-daemon")
def test_nbd_by_the_storage_daemon(image: stacks.Image, tmp_path: Path) -> None:
    words = [*ON_TOP, "--socket", tmp_path / "s", "--name", "x"]
    flat = tmp_path / "flat"
    copy = f'nbdcopy "$uri" {flat}'
    # There need not be an nbdkit.
    env = {"NBDKIT": "/no/such"}
    run_obd("serve", *words, image.config, "--", "sh", "-c", copy, env=env)
    assert flat.read_bytes() == image.disk
    assert not (tmp_path / "s").exists()


@requires("qemu-storage-daemon", "fuse", "root")
def test_file_by_the_storage_daemon(image: stacks.Image, tmp_path: Path) -> None:
    words = [*ON_TOP, "--as", "fuse", "--socket", tmp_path / "f"]
    ran = run_obd("serve", *words, image.config, "--", "cat", "$uri")
    assert ran.out == image.disk


@requires("qemu-storage-daemon", "fuse", "root")
def test_a_file_that_would_be_written_wrong(
    image: stacks.Image, tmp_path: Path
) -> None:
    words = [*ON_TOP, "--as", "fuse", "--socket", tmp_path / "f"]
    words += ["--upper", tmp_path / "own"]
    assert "mixes up" in run_obd("serve", *words, image.config, "--", "x", code=2).err
