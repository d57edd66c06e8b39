# SPDX-License-Identifier: Apache-2.0
"""test_feed - a layer comes unpacked and judged, or the reader learns why not."""

from __future__ import annotations

import gzip
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from obdengine.errors import DigestMismatch, FormatError, SourceError
from obdengine.oci.digest import DigestReader
from obdengine.ops.feed import LayerFeed
from tests.oci_images import digest_of

TAR = random.Random(3).randbytes(5_000_000)
BLOB = gzip.compress(TAR, 1)


def opener(blob: bytes, digest: str = "", size: int = 0) -> Callable[[], Any]:
    @contextmanager
    def open_blob() -> Iterator[DigestReader]:
        stream = io.BytesIO(blob)
        yield DigestReader(stream, "blob", digest or digest_of(blob), size or len(blob))

    return open_blob


def test_all_of_it_comes() -> None:
    seen: list[int] = []
    with LayerFeed(opener(BLOB), digest_of(TAR), "layer", seen.append) as feed:
        found = feed.read(100) + feed.read(1) + feed.read()
        feed.finish()
        assert feed.read(1) == b""
    assert found == TAR
    assert feed.size == len(TAR)
    assert seen == sorted(seen)
    assert seen[-1] == len(BLOB)


def test_tar_without_a_digest() -> None:
    with LayerFeed(opener(BLOB), None, "layer") as feed:
        assert feed.read() == TAR


@pytest.mark.parametrize(
    ("open_blob", "diff_id", "error", "what"),
    [
        (opener(BLOB), digest_of(b""), DigestMismatch, "unpacked layer"),
        (opener(BLOB, digest_of(b"")), digest_of(TAR), DigestMismatch, "of the blob"),
        (opener(BLOB, size=7), digest_of(TAR), DigestMismatch, "size of the blob"),
        (opener(BLOB[:-9]), digest_of(TAR), FormatError, "cut off"),
        (opener(BLOB + b"x"), digest_of(TAR), FormatError, "does not unpack"),
    ],
)
def test_wrong_ones_are_refused(
    open_blob: Any, diff_id: str, error: type, what: str
) -> None:
    with LayerFeed(open_blob, diff_id, "layer") as feed:
        with pytest.raises(error, match=what):
            feed.finish()
        with pytest.raises(error, match=what):
            feed.read(1)


def test_store_that_fails() -> None:
    def open_blob() -> Any:
        raise SourceError("no network")

    with (
        LayerFeed(open_blob, digest_of(TAR), "layer") as feed,
        pytest.raises(SourceError, match="no network"),
    ):
        feed.read(1)


def test_reader_that_goes_away_ends_the_thread() -> None:
    before = set(threading.enumerate())
    with LayerFeed(opener(gzip.compress(bytes(200 << 20), 1)), None, "layer") as feed:
        feed.read(1)
        time.sleep(0.2)  # as many chunks as may wait
        assert feed.size == 1
    assert set(threading.enumerate()) <= before  # others may have ended
