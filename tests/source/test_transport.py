# SPDX-License-Identifier: Apache-2.0
"""test_transport - redirects that are signed, proxies, peers, TLS, and unix sockets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from obdengine.errors import AccessDenied, BadAnswer, Closed, ConfigError, SourceError
from obdengine.source.hosts import (
    HttpSettings,
    context_for,
    origin_of,
    places_of,
    proxy_for,
    shown,
)
from obdengine.source.http import HttpSource
from obdengine.source.refusal import seconds_of
from obdengine.source.sockets import is_loopback
from obdengine.source.transport import Transport
from tests.certificates import Pair, make_authority, make_pair
from tests.forwarding import Proxy
from tests.misbehaving import Misbehaving
from tests.registries import Nginx
from tests.tools import environment, requires

DATA = Random(3).randbytes(200_000)


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    with Misbehaving(files={"/layer": DATA}) as found:
        yield found


def source(url: str, **more: Any) -> HttpSource:
    settings = HttpSettings(**{"attempts": 2, "deadline": 5.0, **more})
    return HttpSource(url, Transport(settings))


# -- Redirects


def test_signed_address_is_used_until_it_is_refused(server: Misbehaving) -> None:
    with Misbehaving() as front:
        front.redirect = {"Location": f"{server.url}/layer?X-Amz-Signature=1"}
        opened = source(f"{front.url}/blob")
        for offset in range(5):
            assert opened.pread(offset, 10) == DATA[offset : offset + 10]
        assert len(front.requests) == 1
        front.redirect = {"Location": f"{server.url}/layer?X-Amz-Signature=2"}
        server.faults = ["403"]
        assert opened.pread(9, 10) == DATA[9:19]
        assert len(front.requests) == 2
        assert server.requests[-1][1].endswith("Signature=2")


def test_fresh_address_that_is_refused_is_an_error(server: Misbehaving) -> None:
    with Misbehaving() as front:
        front.redirect = {"Location": f"{server.url}/layer"}
        server.always = "403"
        with pytest.raises(AccessDenied):
            source(f"{front.url}/blob")


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Date=20200101T000000Z&X-Amz-Expires=60",
        "X-Goog-Date=20200101T000000Z&X-Goog-Expires=60",
        "Expires=1577836800",
        "se=2020-01-01T00%3A00%3A00Z",
    ],
)
def test_signed_address_that_has_ended_is_renewed(
    server: Misbehaving, query: str
) -> None:
    with Misbehaving() as front:
        front.redirect = {"Location": f"{server.url}/layer?{query}"}
        opened = source(f"{front.url}/blob")
        opened.pread(0, 10)
        opened.pread(0, 10)
        assert len(front.requests) == 3


def test_redirects_in_a_circle(server: Misbehaving) -> None:
    server.redirect = {"Location": "/layer"}
    with pytest.raises(BadAnswer, match="too often"):
        source(f"{server.url}/layer")


@pytest.mark.parametrize("where", ["ftp://x/", "//", "http://user:pw@x/", ""])
def test_redirect_to_nowhere(server: Misbehaving, where: str) -> None:
    server.redirect = {"Location": where}
    with pytest.raises(BadAnswer) as caught:
        source(f"{server.url}/layer")
    assert "pw" not in str(caught.value)


# -- Proxies


def test_proxy_for_a_server_without_tls(server: Misbehaving) -> None:
    with Proxy({"layers.example": server.host}) as proxy:
        to = {"http": proxy.url.replace("//", "//me:secret@"), "no": "other.example"}
        opened = source("http://layers.example/layer", proxies=to)
        assert opened.pread(0, 100) == DATA[:100]
    assert {asked[1] for asked in proxy.asked} == {"http://layers.example/layer"}
    assert proxy.asked[0][2].startswith("Basic ")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_authority(tmp_path_factory.mktemp("authority"))


@requires("nginx", "openssl")
def test_proxy_for_a_server_with_tls(tmp_path: Path, authority: Pair) -> None:
    (tmp_path / "layer").write_bytes(DATA)
    pair = make_pair(tmp_path, authority, "server")
    with Nginx(tmp_path / "nginx", f"root {tmp_path};", tls=pair) as server:
        with Proxy({"registry.example:443": server.host}) as proxy:
            more = {"proxies": {"all": proxy.url}, "ca_file": authority.certificate}
            opened = source("https://registry.example/layer", **more)
            assert opened.pread(0, 100) == DATA[:100]
        assert {asked[:2] for asked in proxy.asked} == {
            ("CONNECT", "registry.example:443")
        }


def test_proxy_that_is_gone() -> None:
    with Proxy() as proxy:
        url = proxy.url
    with pytest.raises(SourceError, match="proxy"):
        source("https://registry.example/layer", proxies={"all": url})


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://a.example/", "http://proxy:1"),
        ("https://a.example/", "http://secure:2"),
        ("https://b.example/", None),
        ("https://sub.b.example/", None),
        ("http://localhost:5000/", None),
        ("http://127.0.0.1/", None),
    ],
)
def test_proxies_of_the_environment(
    url: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "proxy:1")
    monkeypatch.setenv("https_proxy", "http://secure:2")
    monkeypatch.setenv("no_proxy", "b.example")
    assert proxy_for(HttpSettings(), url) == found


# -- Peers, mirrors, addresses


def test_peer_is_asked_by_the_whole_address(server: Misbehaving) -> None:
    path = f"/peer/{server.url}/layer"
    with Misbehaving(files={path: DATA}) as peer:
        opened = source(f"{server.url}/layer", via=f"{peer.url}/peer")
        assert opened.pread(0, 10) == DATA[:10]
        assert {asked[1] for asked in peer.requests} == {path}
        peer.always = "500"
        assert opened.pread(10, 10) == DATA[10:20]


def test_peer_and_mirrors_are_asked_for_bytes_only(server: Misbehaving) -> None:
    with Misbehaving(files={"/layer": b"theirs"}) as other:
        more: Any = {"via": other.url, "mirrors": {server.host: (other.url,)}}
        transport = Transport(HttpSettings(**more))
        url = f"{server.url}/layer"
        assert transport.request("GET", url).body == b"theirs"
        assert [asked[1] for asked in other.requests] == ["/layer"]
        assert transport.request("GET", url, mirrors=False).body == DATA


def test_places() -> None:
    mirrors = {"a.example:5000": ("https://m.example/sub/", "http://n.example")}
    settings = HttpSettings(mirrors=mirrors, via="http://localhost:1/p")
    places = places_of(settings, "https://a.example:5000/v2/x?y=1")
    assert [place.url for place in places] == [
        "http://localhost:1/p/https://a.example:5000/v2/x?y=1",
        "https://m.example/sub/v2/x?y=1",
        "http://n.example/v2/x?y=1",
        "https://a.example:5000/v2/x?y=1",
    ]
    assert len(places_of(settings, "https://a.example/v2/x")) == 2


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("a.localhost.", True),
        ("127.3.2.1", True),
        ("[::1]", True),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("127.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, is_here: bool) -> None:
    assert is_loopback(host) == is_here


def test_addresses() -> None:
    assert origin_of("https://a.example/x") == origin_of("https://a.example:443/y")
    assert origin_of("http://a.example/x") != origin_of("https://a.example/x")
    assert shown("https://me:pw@a.example/x?sig=1#f") == "https://a.example/x"


def test_retry_after() -> None:
    assert seconds_of("7") == 7.0
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3000))
    assert 2000 < (seconds_of(later) or 0) <= 3000
    assert seconds_of("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert seconds_of("soon") is None
    assert seconds_of(None) is None


# -- TLS, and the end


def test_certificates_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.example" / "x.crt"
    path.parent.mkdir()
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"x\.crt"):
        context_for(HttpSettings(cert_folders=(tmp_path,)), "a.example")
    for more in ({"ca_file": path}, {"client_cert": path}, {"ca_file": tmp_path / "n"}):
        with pytest.raises(ConfigError):
            context_for(HttpSettings(**more), "b.example")


def test_server_that_does_not_speak_tls(server: Misbehaving) -> None:
    with pytest.raises(SourceError, match="TLS"):
        source(server.url.replace("http:", "https:") + "/layer")


def test_local_files_need_no_urllib3(tmp_path: Path) -> None:
    (tmp_path / "urllib3.py").write_text("raise ImportError('too old')")
    code = (
        "import obdengine.ops.image, obdengine.cli.transfer, obdengine.source.http as h"
    )
    code += "; h.HttpSource('http://localhost:1/x', h.Transport())"
    paths = f"{tmp_path}:{environment()['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=paths),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith("obdengine.errors.SourceError: this")


def test_closed_transport(server: Misbehaving) -> None:
    transport = Transport()
    opened = HttpSource(f"{server.url}/layer", transport)
    transport.close()
    transport.close()
    with pytest.raises(Closed):
        opened.pread(0, 1)


def test_answer_that_is_too_long(server: Misbehaving) -> None:
    with pytest.raises(BadAnswer, match="more than 1000"):
        Transport().request("GET", f"{server.url}/layer", limit=1000)
