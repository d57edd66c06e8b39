# SPDX-License-Identifier: Apache-2.0
"""test_manifest - documents are judged by their rules, and keep what is unknown."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from obdengine.errors import BadManifest, FormatError, Unsupported
from obdengine.oci import words
from obdengine.oci.manifest import (
    MAX_DOCUMENT,
    Configuration,
    Descriptor,
    Index,
    Manifest,
    canonical,
    media_type_of,
    parse,
)

DIGEST = "sha256:" + "ab" * 32


def descriptor(**more: Any) -> dict[str, Any]:
    return {"mediaType": words.OCI_LAYER, "digest": DIGEST, "size": 7, **more}


def manifest(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": words.OCI_MANIFEST,
        "config": descriptor(mediaType=words.OCI_CONFIG),
        "layers": [descriptor(), descriptor(annotations={"a": "b"}, data="eA==")],
        **more,
    }


def config(**more: Any) -> dict[str, Any]:
    root = {"type": "layers", "diff_ids": [DIGEST]}
    return {"os": "linux", "architecture": "amd64", "rootfs": root, **more}


def read(found: Any, kind: type = Manifest) -> Any:
    return kind.parse(json.dumps(found).encode(), "doc")


def test_unknown_keys_survive() -> None:
    found = manifest(
        annotations={"k": "v"},
        subject=descriptor(mediaType=words.OCI_MANIFEST),
        artifactType="application/x",
        future={"a": [1]},
    )
    again = Manifest.parse(read(found).raw(), "doc")
    assert json.loads(again.raw()) == found
    assert again == read(found)


def test_index_survives() -> None:
    entry = descriptor(
        mediaType=words.OCI_MANIFEST,
        platform={"os": "linux", "architecture": "arm64", "os.features": ["x"]},
        urls=["https://h.example/x"],
        artifactType="application/x",
    )
    found = {
        "schemaVersion": 2,
        "mediaType": words.OCI_INDEX,
        "manifests": [entry],
        "x": 1,
    }
    assert json.loads(read(found, Index).raw()) == found


def test_writing_is_canonical() -> None:
    found = manifest()
    backwards = dict(reversed(found.items()))
    raw = read(found).raw()
    assert raw == read(backwards).raw()
    assert b" " not in raw
    assert canonical({"b": "ä", "a": 1}) == '{"a":1,"b":"ä"}'.encode()


def test_configuration_with_other_layers_keeps_the_rest() -> None:
    found = config(history=[{"empty_layer": True, "x": 1}], config={"Env": ["a"]})
    other = "sha256:" + "cd" * 32
    again = json.loads(read(found, Configuration).with_layers([other]))
    assert again["rootfs"] == {"type": "layers", "diff_ids": [other]}
    assert {k: again[k] for k in again if k != "rootfs"} == {
        k: found[k] for k in found if k != "rootfs"
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"\xff\xfe",
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"1" * 10_000 + b"}",
        b" " * (MAX_DOCUMENT + 1),
    ],
)
def test_no_document(raw: bytes) -> None:
    with pytest.raises(BadManifest):
        parse(raw, "doc")


BAD_DESCRIPTORS: list[Any] = [
    None,
    [],
    "x",
    descriptor(mediaType=None),
    descriptor(mediaType=""),
    descriptor(mediaType=1),
    descriptor(digest=None),
    descriptor(digest="sha256:xyz"),
    descriptor(digest=DIGEST.upper()),
    descriptor(digest="sha256:../../../etc/passwd"),
    descriptor(digest="md5:" + "0" * 32),
    descriptor(size=None),
    descriptor(size=-1),
    descriptor(size=1.0),
    descriptor(size="7"),
    descriptor(size=True),
    descriptor(size=2**63),
    descriptor(annotations=[]),
    descriptor(annotations={"a": 1}),
    descriptor(urls="x"),
    descriptor(urls=[1]),
    descriptor(platform="linux"),
    descriptor(artifactType=[]),
]


@pytest.mark.parametrize("bad", BAD_DESCRIPTORS)
def test_bad_descriptor(bad: Any) -> None:
    with pytest.raises((BadManifest, Unsupported)) as caught:
        read(manifest(layers=[descriptor(), bad]))
    assert "layers[1]" in str(caught.value)
    with pytest.raises((BadManifest, Unsupported)):
        read(manifest(config=bad))


@pytest.mark.parametrize(
    "more",
    [
        {"schemaVersion": 1},
        {"schemaVersion": 3},
        {"schemaVersion": None},
        {"schemaVersion": "2"},
        {"schemaVersion": True},
        {"mediaType": 1},
        {"mediaType": words.OCI_INDEX},
        {"layers": {}},
        {"layers": [descriptor()] * 5000},
        {"manifests": [descriptor()]},
        {"annotations": {"a": None}},
        {"subject": {"digest": DIGEST}},
    ],
)
def test_bad_manifest(more: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        read(manifest(**more))


def test_served_as_something_else() -> None:
    raw = json.dumps(manifest()).encode()
    with pytest.raises(BadManifest):
        Manifest.parse(raw, "doc", words.DOCKER_MANIFEST)
    assert Manifest.parse(raw, "doc", "text/plain").media_type == words.OCI_MANIFEST
    with pytest.raises(Unsupported, match="first schema"):
        Manifest.parse(raw, "doc", f"{words.DOCKER_MANIFEST_V1}+prettyjws")


def test_document_that_does_not_say_what_it_is() -> None:
    assert media_type_of({"schemaVersion": 2, "manifests": []}, "d") == words.OCI_INDEX
    assert media_type_of({"schemaVersion": 2}, "d") == words.OCI_MANIFEST
    found = media_type_of({"schemaVersion": 2}, "d", words.DOCKER_MANIFEST)
    assert found == words.DOCKER_MANIFEST


@pytest.mark.parametrize(
    "found",
    [
        {},
        config(rootfs=None),
        config(rootfs={"type": "files", "diff_ids": []}),
        config(rootfs={"type": "layers", "diff_ids": "x"}),
        config(rootfs={"type": "layers", "diff_ids": ["x"]}),
        config(rootfs={"type": "layers", "diff_ids": [1]}),
        config(os=1),
        config(history={}),
        config(history=["x"]),
    ],
)
def test_bad_configuration(found: Any) -> None:
    with pytest.raises(BadManifest):
        read(found, Configuration)


def test_descriptor_to_json_leaves_out_what_is_not_said() -> None:
    assert Descriptor("a/b", DIGEST, 1).to_json() == {
        "mediaType": "a/b",
        "digest": DIGEST,
        "size": 1,
    }


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (words.OCI_LAYER_GZIP, words.OCI_LAYER),
        (words.OCI_LAYER_ZSTD, words.OCI_LAYER),
        (words.DOCKER_LAYER_GZIP, words.DOCKER_LAYER),
        ("application/octet-stream", None),
    ],
)
def test_unpacked_layer(packed: str, plain: str | None) -> None:
    assert words.unpacked_layer(packed) == plain


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([DIGEST, words.OCI_LAYER, words.OCI_INDEX, "../x", "layers"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(found: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything in a document."""
    keys: Any = found if isinstance(found, dict) else range(len(found))
    here = [(found, key) for key in keys]
    inner = [found[key] for key in keys if isinstance(found[key], dict | list)]
    return here + [place for one in inner for place in places(one)]


@given(data=st.data())
def test_anything_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    kind, found = data.draw(
        st.sampled_from(
            [
                (Manifest, manifest(annotations={"a": "b"}, subject=descriptor())),
                (Index, {"schemaVersion": 2, "manifests": [descriptor(platform={})]}),
                (Configuration, config(history=[{"empty_layer": True}])),
            ]
        )
    )
    found = json.loads(json.dumps(found))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(found)))
        container[key] = data.draw(ANYTHING)
    raw = json.dumps(found).encode()
    with contextlib.suppress(FormatError):
        again = kind.parse(raw, "doc")
        if kind is not Configuration:
            assert kind.parse(again.raw(), "doc") == again
