# SPDX-License-Identifier: Apache-2.0
"""test_auth - what a registry asks for, and what it is told."""

from __future__ import annotations

import pytest

from obdengine import oci
from obdengine.errors import AccessDenied, BadAnswer
from obdengine.oci.auth import Challenge, RegistryAuth, challenges_of
from obdengine.source.hosts import HttpSettings
from obdengine.source.transport import Transport
from tests.misbehaving import Misbehaving

BEARER = 'Bearer realm="https://auth.example/token",service="a b",scope="x:y:pull,push"'


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (
            [BEARER],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.example/token",
                        "service": "a b",
                        "scope": "x:y:pull,push",
                    },
                )
            ],
        ),
        (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
        (["Basic"], [Challenge("basic", {})]),
        (
            ['Basic realm="a", Bearer realm="b", service=c'],
            [
                Challenge("basic", {"realm": "a"}),
                Challenge("bearer", {"realm": "b", "service": "c"}),
            ],
        ),
        (
            ["Negotiate", 'BASIC REALM="q\\"q"'],
            [Challenge("negotiate", {}), Challenge("basic", {"realm": 'q"q'})],
        ),
        ([""], []),
        ([], []),
        (["=,=,"], []),
    ],
)
def test_challenges(headers: list[str], found: list[Challenge]) -> None:
    assert list(challenges_of(headers)) == found


def auth_for(host: str) -> RegistryAuth:
    who = oci.Given(host, oci.Credential("user", "secret"))
    transport = Transport(HttpSettings(attempts=1, connect_timeout=1))
    return RegistryAuth(transport, who, ["repository:a:pull"])


def test_password_is_not_sent_without_tls() -> None:
    url = "http://registry.example/v2/a/blobs/x"
    auth = auth_for("registry.example")
    assert auth.challenged(url, ['Basic realm="x"'], None, float("inf"))
    transport = Transport(HttpSettings(plain_http=frozenset({"*"})))
    with pytest.raises(AccessDenied, match="without TLS"):
        transport.request("GET", url, auth=auth)


def test_password_is_not_sent_to_a_token_server_without_tls() -> None:
    auth = auth_for("registry.example")
    url = "https://registry.example/v2/a/blobs/x"
    with pytest.raises(AccessDenied, match="without TLS"):
        auth.challenged(url, ['Bearer realm="http://auth.example/t"'], None, 1e12)


def test_password_is_not_sent_where_it_does_not_belong() -> None:
    auth = auth_for("registry.example")
    elsewhere = "https://store.example/x"
    assert not auth.challenged(elsewhere, ['Basic realm="x"'], None, float("inf"))
    assert auth.header(elsewhere, float("inf")) is None


def test_no_way_in_that_is_known() -> None:
    url = "https://registry.example/v2/a/blobs/x"
    auth = auth_for("registry.example")
    assert not auth.challenged(url, ["Negotiate"], None, 1.0)
    assert not auth.challenged(url, [], None, 1.0)
    with pytest.raises(BadAnswer):
        auth.challenged(url, ["Bearer service=x"], None, 1.0)
    with pytest.raises(BadAnswer):
        auth.challenged(url, ['Bearer realm="ftp://x/"'], None, 1.0)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": "a\\nb"}', b'{"token": "x"'],
)
def test_token_server_that_gives_none(answer: bytes) -> None:
    with Misbehaving(files={"/token": answer}) as server:
        url = "https://registry.example/v2/a/blobs/x"
        auth = auth_for("registry.example")
        with pytest.raises(BadAnswer, match="no token"):
            auth.challenged(url, [f'Bearer realm="{server.url}/token"'], None, 1e12)


def test_password_does_not_follow_a_redirect() -> None:
    with Misbehaving(files={"/blob": b"bytes"}) as store, Misbehaving() as registry:
        to = {"Location": f"{store.url}/blob"}
        registry.redirect = to
        who = oci.Given(registry.host, oci.Credential("user", "secret"))
        with oci.Client(oci.RegistrySettings(credentials=who)) as client:
            url = f"{registry.url}/v2/a/blobs/x"
            auth = client.auth(url, "a")
            assert auth.challenged(url, ['Basic realm="x"'], None, float("inf"))
            source = client.source(url)
            assert source.pread(0, 5) == b"bytes"
        assert all(asked[3].startswith("Basic") for asked in registry.requests)
        assert [asked[3] for asked in store.requests] == ["", ""]
        assert len(registry.requests) == 1  # the second read knew the way
