# SPDX-License-Identifier: Apache-2.0
"""test_credentials - whose name and password a registry gets, and from where."""

from __future__ import annotations

import base64
import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from obdengine.errors import ConfigError, ObdError, SourceError, SourceMissing
from obdengine.oci.credentials import (
    Credential,
    DockerConfig,
    Given,
    Service,
    Several,
    usual_files,
)
from obdengine.oci.settings import RegistrySettings
from obdengine.source.hosts import HttpSettings

HOST = "registry.example:5000"
URL = f"https://{HOST}/v2/team/app/blobs/sha256:00"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(path: Path, found: Any) -> DockerConfig:
    path.write_text(json.dumps(found))
    return DockerConfig(path)


@pytest.mark.parametrize(
    ("auths", "user"),
    [
        ({HOST: {"auth": basic("a:b:c")}}, "a"),
        ({HOST: {"username": "a", "password": "b"}}, "a"),
        ({HOST: {"username": "x"}, f"{HOST}/team": {"username": "a"}}, "a"),
        ({f"{HOST}/team/app": {"username": "a"}, f"{HOST}/team": {}}, "a"),
        ({f"{HOST}/team/ap": {"username": "x"}, HOST: {"username": "a"}}, "a"),
        ({f"https://{HOST}/v1/": {"auth": basic("a:b")}}, "a"),
        ({f"https://{HOST}": {"auth": basic("x:b")}, HOST: {"username": "a"}}, "a"),
        ({HOST: {"auth": ""}}, None),
        ({"registry.example": {"username": "x"}}, None),
        ({"other.example:5000": {"username": "x"}}, None),
        ({}, None),
    ],
)
def test_entry_that_fits_best(auths: Any, user: str | None, tmp_path: Path) -> None:
    found = write(tmp_path / "config.json", {"auths": auths}).find(URL)
    assert (found.user if found else None) == user


def test_identity_token(tmp_path: Path) -> None:
    row = {"auth": basic("user:"), "identitytoken": "the-token"}
    found = write(tmp_path / "config.json", {"auths": {HOST: row}}).find(URL)
    assert found == Credential("user", "", "the-token")


@pytest.mark.parametrize(
    "found",
    [
        [],
        {"auths": ["secret"]},
        {"auths": {HOST: "secret"}},
        {"auths": {HOST: {"auth": "%%%secret"}}},
        {"auths": {HOST: {"auth": basic("secret")}}},
        {"auths": {HOST: {"username": 7}}},
        {"credHelpers": {HOST: "../secret"}},
        {"credHelpers": {HOST: "no-such-helper"}},
    ],
)
def test_what_cannot_be_made_out(found: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write(tmp_path / "config.json", found).find(URL)
    assert str(tmp_path) in str(caught.value)


def test_text_of_a_broken_file_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"auths": {"secret" ')
    with pytest.raises(ConfigError) as caught:
        DockerConfig(path).find(URL)
    shown: BaseException | None = caught.value
    while shown:
        assert "secret" not in str(shown)
        shown = shown.__cause__


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert DockerConfig(tmp_path / "none").find(URL) is None
    with pytest.raises(SourceMissing):
        DockerConfig(tmp_path / "none", needed=True).find(URL)


def test_login_counts_at_once(tmp_path: Path) -> None:
    config = write(tmp_path / "config.json", {})
    assert config.find(URL) is None
    write(tmp_path / "config.json", {"auths": {HOST: {"username": "a"}}})
    assert config.find(URL)


HELPER = """#!/bin/sh
read -r host
[ "$1" = get ] || exit 9
case $host in
registry.example:5000) echo '{"ServerURL": "x", "Username": "a", "Secret": "b"}' ;;
token.example) echo '{"Username": "<token>", "Secret": "the-token"}' ;;
odd.example) echo 'what?' ;;
none.example) echo 'credentials not found in native keychain'; exit 1 ;;
*) echo broken; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "bin" / "docker-credential-test"
    path.parent.mkdir()
    path.write_text(HELPER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return "test"


def test_helper_program(helper: str, tmp_path: Path) -> None:
    of_all = write(tmp_path / "1", {"credsStore": helper})
    of_one = write(tmp_path / "2", {"credHelpers": {HOST: helper}})
    assert of_all.find(URL) == of_one.find(URL) == Credential("a", "b")
    assert of_one.find("https://other.example/v2/a/blobs/x") is None
    assert of_all.find("https://none.example/v2/a/blobs/x") is None
    token = of_all.find("https://token.example/v2/a/blobs/x")
    assert token == Credential(identity_token="the-token")
    for host in ("odd", "broken"):
        with pytest.raises(SourceError):
            of_all.find(f"https://{host}.example/v2/a/blobs/x")


def test_entry_goes_before_the_store(helper: str, tmp_path: Path) -> None:
    found = {"credsStore": helper, "auths": {HOST: {"username": "listed"}}}
    credential = write(tmp_path / "config.json", found).find(URL)
    assert credential
    assert credential.user == "listed"


def test_usual_files(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    places = [
        ("run/containers/auth.json", home),
        (".config/containers/auth.json", home),
        (".docker/config.json", home),
        ("docker/config.json", {**home, "DOCKER_CONFIG": str(tmp_path / "docker")}),
        ("named.json", {**home, "REGISTRY_AUTH_FILE": str(tmp_path / "named.json")}),
    ]
    for number, (name, environment) in enumerate(places):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, {"auths": {HOST: {"username": f"user{number}"}}})
        found = usual_files(environment).find(URL)
        assert found == Credential(f"user{number}")
        path.unlink()


def test_several_places() -> None:
    first = Given("other.example", Credential("x"))
    second = Given(HOST, Credential("a"))
    assert Several([first, second]).find(URL) == Credential("a")
    assert Several([first]).find(URL) is None


# -- overlaybd's service


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Asked(http.server.BaseHTTPRequestHandler):
    answer: bytes
    asked: list[str]

    def do_GET(self) -> None:
        """Answer what the test wants."""
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Say nothing; a unix socket's client has no address either."""

    def address_string(self) -> str:
        """Return the address of a client that has none."""
        return "here"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[type[_Asked], dict[str, str]]]:
    """A service, and its address by mode."""
    handler = type("Handler", (_Asked,), {"asked": []})
    path = tmp_path / "socket"
    servers = [
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler),
        _UnixServer(str(path), handler),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    port = servers[0].server_address[1]
    yield handler, {"http": f"http://127.0.0.1:{port}/auth", "uds": str(path)}
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("mode", ["http", "uds"])
def test_service(service: tuple[Any, dict[str, str]], mode: str) -> None:
    handler, addresses = service
    row = {"auths": {HOST: {"username": "a", "password": "b"}}}
    handler.answer = json.dumps({"traceId": "1", "success": True, "data": row}).encode()
    found = {"credentialConfig": {"mode": mode, "path": addresses[mode], "timeout": 3}}
    settings = RegistrySettings.from_service(found)
    assert settings.credentials.find(URL) == Credential("a", "b")
    (asked,) = handler.asked
    assert urlsplit(asked).path == "/auth"
    assert parse_qs(urlsplit(asked).query) == {"remote_url": [URL]}


def test_service_that_has_none(service: tuple[Any, dict[str, str]]) -> None:
    handler, addresses = service
    handler.answer = json.dumps({"traceId": "1", "success": False}).encode()
    assert Service(addresses["http"], HttpSettings()).find(URL) is None
    for answer in (b"", b"[]", b'{"success": true}', b'{"success": true, "data": 1}'):
        handler.answer = answer
        with pytest.raises(SourceError):
            Service(addresses["http"], HttpSettings()).find(URL)


def test_service_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    found = {"credentialConfig": {"mode": "uds", "path": path, "timeout": 1}}
    with pytest.raises(SourceError):
        RegistrySettings.from_service(found).credentials.find(URL)


# -- The service file


OWN = {
    "caFile": "/ca",
    "deadline": 5,
    "attempts": 2,
    "insecure": ["a.example"],
    "plainHttp": ["b.example"],
    "mirrors": {HOST: ["https://mirror.example/x"]},
    "proxy": "http://proxy.example:3128",
    "parallel": 9,
}


def test_service_file(tmp_path: Path) -> None:
    found = {
        "userAgent": "me/1",
        "certConfig": {"certFile": "/c", "keyFile": "/k"},
        "p2pConfig": {"enable": True, "address": "http://localhost:19145/peer"},
        "credentialFilePath": str(tmp_path / "cred.json"),
        "obdengine": {"registry": OWN},
    }
    settings = RegistrySettings.from_service(found)
    http = settings.http
    assert (http.user_agent, http.deadline, http.attempts) == ("me/1", 5, 2)
    assert (http.client_cert, http.client_key) == (Path("/c"), Path("/k"))
    assert http.via == "http://localhost:19145/peer"
    assert http.mirrors == {HOST: ("https://mirror.example/x",)}
    assert http.proxies == {"all": "http://proxy.example:3128"}
    assert http.insecure == {"a.example"}
    assert http.plain_http == {"b.example"}
    assert settings.parallel == 9
    write(tmp_path / "cred.json", {"auths": {HOST: {"username": "a"}}})
    assert settings.credentials.find(URL) == Credential("a")


@pytest.mark.parametrize(
    "found",
    [
        {"userAgent": 7},
        {"credentialConfig": {"mode": "smoke"}},
        {"credentialConfig": {"mode": "file"}},
        {"credentialConfig": {"mode": "smoke", "path": "/x"}},
        {"credentialConfig": {"mode": "http", "path": "/x"}},
        {"p2pConfig": {"enable": True, "address": "localhost"}},
        {"obdengine": {"registry": {"deadline": 0}}},
        {"obdengine": {"registry": {"deadline": "1"}}},
        {"obdengine": {"registry": {"insecure": "a"}}},
        {"obdengine": {"registry": {"mirrors": {HOST: ["mirror"]}}}},
        {"obdengine": {"registry": []}},
    ],
)
def test_service_file_that_is_wrong(found: Any) -> None:
    with pytest.raises(ObdError) as caught:
        RegistrySettings.from_service(found, "/etc/service.json")
    assert caught.value.errno
