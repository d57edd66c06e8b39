# SPDX-License-Identifier: Apache-2.0
"""test_registry - a repository of a real registry, of every kind there is."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from obdengine import oci
from obdengine.errors import (
    AccessDenied,
    BadAnswer,
    DigestMismatch,
    SourceError,
    SourceMissing,
)
from obdengine.oci import auth, words
from obdengine.oci.manifest import Descriptor, canonical, describe
from tests.certificates import make_authority
from tests.misbehaving import Misbehaving
from tests.oci.rigs import KINDS, Rig, Workshop, make_workshop, open_rig
from tests.registries import Nginx, Registry
from tests.running import PATIENCE
from tests.token_server import TokenServer
from tests.tools import requires

pytestmark = requires("docker-registry", "nginx", "openssl", "htpasswd")

# More than five pieces of an upload, and an odd end.
PIECE = 1 << 16
BLOB = Random(1).randbytes(5 * PIECE + 777)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("registries"))


@pytest.fixture(scope="module", params=KINDS)
def rig(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Rig]:
    with open_rig(workshop, request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(workshop: Workshop) -> Iterator[Rig]:
    with open_rig(Workshop(workshop.folder / "plain", *workshop[1:]), "open") as opened:
        yield opened


def put(store: oci.Store, blob: bytes, kind: str = words.OCI_LAYER) -> Descriptor:
    found = describe(blob, kind)
    store.put_blob(found, lambda: io.BytesIO(blob))
    return found


def manifest_of(store: oci.Store, blob: bytes = BLOB, **more: Any) -> bytes:
    """Put an image of one layer and return its manifest."""
    layer = put(store, blob)
    config = canonical(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        }
    )
    found = {
        "schemaVersion": 2,
        "mediaType": words.OCI_MANIFEST,
        "config": put(store, config, words.OCI_CONFIG).to_json(),
        "layers": [layer.to_json()],
        **more,
    }
    return canonical(found)


def test_everything_there_and_back(rig: Rig) -> None:
    store = rig.store("one/image")
    raw = manifest_of(store)
    found = store.put_manifest(raw, words.OCI_MANIFEST, "v1")
    for which in ("v1", found.digest):
        assert store.manifest(which) == (found, raw)
    assert store.tags() == ["v1"]
    image = oci.resolve_image(store, "v1")
    (layer,) = image.layers
    assert store.has_blob(layer)
    with store.blob(layer) as reader:
        assert reader.read() == BLOB
    assert store.source(layer).pread(1000, 5000) == BLOB[1000:6000]
    store.close()


def test_what_is_not_there(rig: Rig) -> None:
    store = rig.store("one/image")
    nothing = describe(b"nothing", words.OCI_LAYER)
    assert not store.has_blob(nothing)
    with pytest.raises(SourceMissing):
        store.manifest("no-such-tag")
    with pytest.raises(SourceMissing), store.blob(nothing) as reader:
        reader.read()
    assert rig.store("no/such").tags() == []


def test_mount_from_another_repository(rig: Rig) -> None:
    blob = put(rig.store("one/image"), BLOB)
    other = rig.store("another/image")
    assert other.mount_blob(blob, "one/image")
    assert other.has_blob(blob)
    assert not other.mount_blob(describe(b"nothing", "x"), "one/image")


def test_upload_in_pieces(rig: Rig) -> None:
    settings = oci.RegistrySettings(
        rig.settings.http, rig.settings.credentials, chunk=PIECE
    )
    reference = oci.parse(f"docker://{rig.host}/in/pieces")
    store = oci.open_store(reference, settings=settings)
    seen: list[tuple[int, int]] = []
    blob = describe(BLOB[::-1], words.OCI_LAYER)
    store.put_blob(blob, lambda: io.BytesIO(BLOB[::-1]), lambda *at: seen.append(at))
    with store.blob(blob) as reader:
        assert reader.read() == BLOB[::-1]
    assert seen == [*((n * PIECE, len(BLOB)) for n in range(1, 6)), (len(BLOB),) * 2]


def test_stream_that_is_another_blob_is_refused(plain: Rig) -> None:
    store = plain.store("not/that")
    blob = describe(BLOB, words.OCI_LAYER)
    with pytest.raises(DigestMismatch):
        store.put_blob(blob, lambda: io.BytesIO(b"x" + BLOB[1:]))
    with pytest.raises(DigestMismatch):
        store.put_blob(blob, lambda: io.BytesIO(BLOB[:-1]))
    assert not store.has_blob(blob)


def test_blob_that_is_there_is_not_read(plain: Rig) -> None:
    store = plain.store("one/image")
    blob = put(store, BLOB)

    def never() -> io.BytesIO:
        raise AssertionError("read")

    store.put_blob(blob, never)


def test_referrers_without_the_api(plain: Rig) -> None:
    store = plain.store("with/referrers")
    subject = store.put_manifest(manifest_of(store), words.OCI_MANIFEST, "v1")
    assert store.referrers(subject.digest).manifests == ()
    more = {"subject": subject.to_json(), "artifactType": words.NATIVE_ARTIFACT}
    raws = [manifest_of(store, blob, **more) for blob in (b"one", b"two")]
    referring = [store.put_manifest(raw, words.OCI_MANIFEST, None) for raw in raws]
    store.put_manifest(raws[0], words.OCI_MANIFEST, None)  # again: still once
    found = store.referrers(subject.digest).manifests
    assert [entry.digest for entry in found] == [one.digest for one in referring]
    assert {entry.artifact_type for entry in found} == {words.NATIVE_ARTIFACT}


def test_without_a_name_and_password(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "nobody")
    with open_rig(folder, "password") as rig:
        store = rig._replace(
            settings=oci.RegistrySettings(
                rig.settings.http, oci.Given("", oci.Credential())
            )
        ).store("a/b")
        with pytest.raises(AccessDenied) as caught:
            store.manifest("v1")
        assert "credentials" in str(caught.value)


def test_wrong_password(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "wrong")
    who = oci.Credential("user", "not-the-secret")
    for kind in ("password", "tokens"):
        with open_rig(folder, kind) as rig:
            settings = oci.RegistrySettings(rig.settings.http, oci.Given(rig.host, who))
            with pytest.raises(AccessDenied) as caught:
                rig._replace(settings=settings).store("a/b").manifest("v1")
            assert "not-the-secret" not in repr(caught.value)
            assert "not-the-secret" not in repr(settings)


def test_without_our_certificate(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "stranger")
    with open_rig(folder, "mtls") as rig:
        with pytest.raises((AccessDenied, BadAnswer)) as caught:
            rig.store("a/b", client_cert=None, client_key=None).manifest("v1")
        assert rig.host in str(caught.value)


def test_certificate_of_a_stranger_is_refused(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "untrusted")
    with open_rig(folder, "tls") as rig:
        with pytest.raises(SourceError, match="not to be trusted"):
            rig.store("a/b", ca_file=None).manifest("v1")
        store = rig.store("a/b", ca_file=None, insecure=frozenset({rig.host}))
        with pytest.raises(SourceMissing):
            store.manifest("v1")


def test_certificates_in_the_folder_of_a_host(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "certs")
    with open_rig(folder, "mtls") as rig:
        own = workshop.folder / "certs.d" / rig.host
        own.mkdir(parents=True)
        names = ["ca.crt", "me.cert", "me.key"]
        for name, path in zip(
            names, (workshop.authority[0], *workshop.client), strict=True
        ):
            (own / name).write_bytes(path.read_bytes())
        nothing = {"ca_file": None, "client_cert": None, "client_key": None}
        store = rig.store("a/b", **nothing, cert_folders=(own.parent,))
        put(store, b"blob")


# -- What goes wrong on the way


def behind(rig: Rig, server: Misbehaving, name: str, **more: Any) -> oci.RegistryStore:
    """Return a repository of rig, through a proxy that misbehaves."""
    changed = {**vars(rig.settings.http), "deadline": PATIENCE, **more}
    http = type(rig.settings.http)(**changed)
    settings = oci.RegistrySettings(http, rig.settings.credentials, chunk=PIECE)
    reference = oci.parse(f"docker://{server.host}/{name}")
    found = oci.open_store(reference, settings=settings)
    assert isinstance(found, oci.RegistryStore)
    return found


def test_manifest_that_is_not_what_its_digest_says(plain: Rig) -> None:
    store = plain.store("one/image")
    found = store.put_manifest(manifest_of(store), words.OCI_MANIFEST, "v1")
    with Misbehaving(plain.registry.url) as server:
        server.everything, server.always = True, "garbage"
        for which in ("v1", found.digest):
            with pytest.raises(DigestMismatch):
                behind(plain, server, "one/image").manifest(which)


def test_blob_that_is_not_what_its_digest_says(plain: Rig) -> None:
    blob = put(plain.store("one/image"), BLOB)
    with Misbehaving(plain.registry.url) as server:
        server.always = "garbage"
        store = behind(plain, server, "one/image")
        with pytest.raises(DigestMismatch), store.blob(blob) as reader:
            reader.read()


@pytest.mark.parametrize("fault", ["503", "429", "reset", "silent"])
def test_upload_goes_on_after_a_fault(plain: Rig, fault: str) -> None:
    data = Random(fault).randbytes(4 * PIECE + 5)
    with Misbehaving(plain.registry.url) as server:
        # HEAD, POST; then the pieces, of which the second fails.
        server.everything = True
        server.faults = ["", "", "", fault]
        more = {"silence": 3.0} if fault == "silent" else {}
        blob = put(behind(plain, server, "resumed/image", **more), data)
        methods = [asked[0] for asked in server.requests]
    assert plain.store("resumed/image").has_blob(blob)
    assert [methods.count(word) for word in ("POST", "PATCH", "PUT")] == [1, 5, 1]


@pytest.mark.parametrize("fault", ["lost", "500"])
def test_answer_to_the_end_of_an_upload_is_lost(plain: Rig, fault: str) -> None:
    data = Random(fault).randbytes(1000)
    with Misbehaving(plain.registry.url) as server:
        server.everything = True
        server.faults = ["", "", fault]
        blob = put(behind(plain, server, f"lost/{fault}"), data)
    assert plain.store(f"lost/{fault}").has_blob(blob)


def test_upload_that_cannot_be_resumed_begins_anew(plain: Rig) -> None:
    # docker-registry drops an upload whose last answer did not get through.
    data = Random(9).randbytes(4 * PIECE + 5)
    with Misbehaving(plain.registry.url) as server:
        server.everything = True
        server.faults = ["", "", "", "lost"]
        blob = put(behind(plain, server, "begun/anew"), data)
        methods = [asked[0] for asked in server.requests]
    assert plain.store("begun/anew").has_blob(blob)
    assert methods.count("POST") == 2


def test_upload_that_is_refused_ends(plain: Rig) -> None:
    with Misbehaving(plain.registry.url) as server:
        server.everything = True
        server.faults, server.always = ["", ""], "400"
        with pytest.raises(BadAnswer):
            put(behind(plain, server, "refused/image"), BLOB)


# -- Tokens


def test_one_token_for_many_threads(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "threads")
    with open_rig(folder, "tokens") as rig:
        assert rig.tokens
        store = rig.store("one/image")
        blob = put(store, BLOB)
        rig.tokens.requests.clear()
        source = rig.store("one/image").source(blob)
        threads = [
            threading.Thread(target=source.pread, args=[n, 100]) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(rig.tokens.requests) == 1


def test_token_that_is_good_no_more_is_renewed(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "ends")
    with open_rig(folder, "tokens") as rig:
        assert rig.tokens
        blob = put(rig.store("one/image"), BLOB)
        rig.tokens.requests.clear()
        source = rig.store("one/image").source(blob)
        assert source.pread(0, 10) == BLOB[:10]
        assert len(rig.tokens.requests) == 1
        rig.registry.stop()
        believe_another(rig.registry, rig.tokens, workshop)
        rig.registry.start()
        assert source.pread(20, 10) == BLOB[20:30]
        assert len(rig.tokens.requests) == 2


def believe_another(
    registry: Registry, tokens: TokenServer, workshop: Workshop
) -> None:
    """Let a registry take no token from before: somebody else signs them now."""
    tokens.signer = make_authority(workshop.folder, "another")
    config = registry.folder / "config.yml"
    names = [str(pair.certificate) for pair in (workshop.authority, tokens.signer)]
    config.write_text(config.read_text().replace(*names))


def test_401_without_a_way_in(plain: Rig) -> None:
    blob = put(plain.store("one/image"), BLOB)
    with Misbehaving(plain.registry.url) as server:
        source = behind(plain, server, "one/image").source(blob)
        assert source.pread(0, 10) == BLOB[:10]
        server.faults = ["401"]
        with pytest.raises(AccessDenied):
            source.pread(10, 10)


def test_token_is_renewed_early(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    monkeypatch.setattr(auth, "time", clock)
    folder = workshop._replace(folder=workshop.folder / "early")
    with open_rig(folder, "tokens") as rig:
        assert rig.tokens
        blob = put(rig.store("one/image"), BLOB)
        rig.tokens.lie = 2000
        source = rig.store("one/image").source(blob)
        source.pread(0, 10)
        rig.tokens.requests.clear()
        passed += 1970
        source.pread(0, 10)
        assert len(rig.tokens.requests) == 1
        # It is good still, so that this cannot be done now does not matter.
        rig.tokens.refusing = True
        passed += 1970
        source.pread(0, 10)


def test_identity_token(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "identity")
    with open_rig(folder, "tokens") as rig:
        assert rig.tokens
        who = oci.Credential(identity_token="the-identity-token")
        settings = oci.RegistrySettings(rig.settings.http, oci.Given(rig.host, who))
        put(rig._replace(settings=settings).store("a/b"), b"blob")
        assert {asked[0] for asked in rig.tokens.requests} == {"POST"}


def test_anonymous_may_pull(workshop: Workshop) -> None:
    folder = workshop._replace(folder=workshop.folder / "anonymous")
    with open_rig(folder, "tokens") as rig:
        blob = put(rig.store("one/image"), BLOB)
        nobody = oci.RegistrySettings(
            rig.settings.http, oci.Given("", oci.Credential())
        )
        store = rig._replace(settings=nobody).store("one/image")
        assert store.source(blob).pread(0, 10) == BLOB[:10]
        with pytest.raises(AccessDenied):
            put(store, b"new")


# -- nginx before it, as operators have it


def test_blobs_that_are_in_an_object_store(plain: Rig, tmp_path: Path) -> None:
    blob = put(plain.store("one/image"), BLOB)
    with Nginx(tmp_path / "store", f"location / {{ {to(plain)} }}") as store:
        away = f"return 307 {store.url}$request_uri?X-Amz-Signature=1;"
        body = f"location ~ /blobs/sha {{ {away} }} location / {{ {to(plain)} }}"
        with Nginx(tmp_path / "front", body) as front:
            rig = plain._replace(host=front.host)
            with rig.store("one/image").blob(blob) as reader:
                assert reader.read() == BLOB
            source = rig.store("one/image").source(blob)
            for offset in range(0, len(BLOB) - 100, 50_000):
                assert source.pread(offset, 100) == BLOB[offset : offset + 100]
            asked = [line for line in front.asked() if "/blobs/sha" in line]
            assert len(asked) == 2
            put(rig.store("one/image"), b"what is sent goes to the registry itself")


def test_mirror_that_keeps_slices(plain: Rig, tmp_path: Path) -> None:
    blob = put(plain.store("one/image"), BLOB)
    keep = (
        "slice 64k; proxy_cache kept; proxy_cache_key $uri$slice_range; "
        "proxy_set_header Range $slice_range; proxy_cache_valid 200 206 1h;"
    )
    outside = f"proxy_cache_path {tmp_path}/kept keys_zone=kept:1m;"
    body = f"location / {{ {keep} {to(plain)} }}"
    with Nginx(tmp_path / "mirror", body, outside=outside) as mirror:
        store = plain.store("one/image", mirrors={plain.host: (mirror.url,)})
        source = store.source(blob)
        for offset in range(0, len(BLOB) - 100, 50_000):
            assert source.pread(offset, 100) == BLOB[offset : offset + 100]
        assert len(mirror.asked()) >= 6  # it notes an answer after it is sent
        mirror.kill()
        assert source.pread(5, 100) == BLOB[5:105]


def to(rig: Rig) -> str:
    """Return how nginx passes requests on."""
    return f"proxy_pass {rig.registry.url}; proxy_set_header Host $http_host;"
