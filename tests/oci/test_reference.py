# SPDX-License-Identifier: Apache-2.0
"""test_reference - what a reference means, and what is said when it means nothing."""

from __future__ import annotations

import pytest

from obdengine.errors import UsageError
from obdengine.oci import Reference, looks_like_reference, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4

GOOD = {
    "oci:dir": (Reference("oci", "dir"), None),
    "oci:/a/b:tag": (Reference("oci", "/a/b", tag="tag"), "tag"),
    "oci:dir:host/name:1": (Reference("oci", "dir", tag="host/name:1"), "host/name:1"),
    f"oci:dir@{DIGEST}": (Reference("oci", "dir", digest=DIGEST), DIGEST),
    "oci:with@sign:x": (Reference("oci", "with@sign", tag="x"), "x"),
    "oci-archive:a.tar": (Reference("oci-archive", "a.tar"), None),
    "docker-archive:a.tar:x:1": (
        Reference("docker-archive", "a.tar", tag="x:1"),
        "x:1",
    ),
    "docker://h.example/a": (
        Reference("docker", host="h.example", repository="a"),
        "latest",
    ),
    "docker://localhost/a/b-c__d.e:T_1": (
        Reference("docker", host="localhost", repository="a/b-c__d.e", tag="T_1"),
        "T_1",
    ),
    "docker://127.0.0.1:5000/a": (
        Reference("docker", host="127.0.0.1:5000", repository="a"),
        "latest",
    ),
    "docker://[::1]:5000/a:x": (
        Reference("docker", host="[::1]:5000", repository="a", tag="x"),
        "x",
    ),
    f"docker://h:5000/a:x@{DIGEST}": (
        Reference("docker", host="h:5000", repository="a", tag="x", digest=DIGEST),
        DIGEST,
    ),
}

BAD = {
    "image": "not a reference",
    "": "not a reference",
    "ftp://h/x": "not a reference",
    "oci:": "no folder",
    "oci::tag": "no folder",
    "oci:dir:": "behind the last colon",
    "oci:a\0b": "NUL",
    "docker-archive:": "no file",
    "docker:a": "docker://host/repository",
    "docker://host.example": "docker://host/repository",
    "docker://name/x": "full name of a host",
    "docker://h.example/": "lower case",
    "docker://h.example/A": "lower case",
    "docker://h.example/a//b": "lower case",
    "docker://h.example/a/../b": "lower case",
    "docker://h.example/a:": "a tag has",
    "docker://h.example/a:-x": "a tag has",
    "docker://h.example/a@sha256:12": "a digest is",
    "docker://h.example/a@md5:" + "0" * 32: "a digest is",
    "docker://h.example:0/a": "not a port",
    "docker://h.example:123456/a": "not a port",
    "docker://h.example:x/a": "not a port",
    "docker:///a": "host cannot be made out",
    "docker://user@h.example/a": "a digest is",
    "docker://-h.example/a": "host cannot be made out",
    "docker://h.example/" + "a" * 300: "lower case",
}


@pytest.mark.parametrize("text", GOOD)
def test_good_ones_are_read_and_written(text: str) -> None:
    expected, which = GOOD[text]
    found = parse(text)
    assert found == expected
    assert found.which == which
    assert str(found) == text
    assert looks_like_reference(text)


@pytest.mark.parametrize("text", BAD)
def test_bad_ones_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(UsageError, match=BAD[text]):
        parse(text)


@pytest.mark.parametrize("text", ["a.json", "dir", "docker", "oci", "./oci:x", "-"])
def test_paths_do_not_look_like_references(text: str) -> None:
    assert not looks_like_reference(text)
