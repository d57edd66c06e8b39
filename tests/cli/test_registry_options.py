# SPDX-License-Identifier: Apache-2.0
"""test_registry_options - the command line gets into registries of every kind."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.misbehaving import Misbehaving
from tests.oci.rigs import Workshop, make_workshop, open_rig
from tests.registries import Registry
from tests.running import Ran
from tests.stacks import Image
from tests.token_server import PASSWORD, USER
from tests.tools import requires

pytestmark = requires("docker-registry", "nginx", "openssl", "htpasswd")

Obd = Callable[..., Ran]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who has never logged in anywhere, and knows no image."""
    for name in ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "OBD_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)


def login(path: Path, host: str) -> Path:
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    return path


@pytest.mark.parametrize("kind", ["password", "tokens"])
def test_logins(
    obd: Obd, image: Image, workshop: Workshop, kind: str, tmp_path: Path
) -> None:
    with open_rig(workshop, kind) as rig:
        target = f"docker://{rig.host}/a/b:v1"
        assert "credentials" in obd("push", image.config, target, code=1).err
        file = login(tmp_path / "auth.json", rig.host)
        obd("push", "--authfile", file, image.config, target)
        login(tmp_path / "home" / "config.json", rig.host)
        obd("check", target)
        obd("pull", target, tmp_path / "pulled")
        words = ["--authfile", tmp_path / "none", target, tmp_path / "other"]
        assert "no such file" in obd("pull", *words, code=1).err


def test_certificates(
    obd: Obd, image: Image, workshop: Workshop, tmp_path: Path
) -> None:
    with open_rig(workshop, "tls") as rig:
        target = f"docker://{rig.host}/a/b:v1"
        said = obd("push", image.config, target, code=1).err
        assert "not to be trusted" in said
        obd("push", "--insecure", image.config, target)
        own = tmp_path / "certs" / rig.host
        own.mkdir(parents=True)
        (own / "ca.crt").write_bytes(workshop.authority.certificate.read_bytes())
        obd("pull", "--cert-dir", own.parent, target, tmp_path / "pulled")
        # Whoever opens a disk finds them by the service file.
        service = tmp_path / "service.json"
        found = {"obdengine": {"registry": {"certDir": str(own.parent)}}}
        service.write_text(json.dumps(found))
        obd("check", target, env={"OBD_SERVICE": str(service)})


def test_client_certificates(
    obd: Obd, image: Image, workshop: Workshop, tmp_path: Path
) -> None:
    with open_rig(workshop, "mtls") as rig:
        target = f"docker://{rig.host}/a/b:v1"
        own = tmp_path / "certs" / rig.host
        own.mkdir(parents=True)
        (own / "ca.crt").write_bytes(workshop.authority.certificate.read_bytes())
        assert obd("push", "--cert-dir", own.parent, image.config, target, code=1).err
        (own / "me.cert").write_bytes(workshop.client.certificate.read_bytes())
        (own / "me.key").write_bytes(workshop.client.key.read_bytes())
        obd("push", "--cert-dir", own.parent, image.config, target)


def test_deadline(obd: Obd, registry: Registry, image: Image, tmp_path: Path) -> None:
    with Misbehaving(registry.url) as server:
        server.everything, server.always = True, "silent"
        target = f"docker://{server.host}/a/b:v1"
        said = obd("push", "--deadline", "1", image.config, target, code=1).err
        assert "no answer in time" in said


def test_registry_that_is_not_there(obd: Obd, tmp_path: Path) -> None:
    with Misbehaving() as gone:
        target = f"docker://{gone.host}/a/b:v1"
    for words in (["pull", target, tmp_path / "x"], ["info", target]):
        assert "refused" in obd(*words, code=1).err
