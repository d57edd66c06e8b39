# SPDX-License-Identifier: Apache-2.0
"""
store - what every place that holds images promises, whatever it is.

A store is one repository: that of a registry, a layout, an archive. Who asks
it for a blob gets that blob or an error: digests are verified by the store.
Only words: nothing here opens or reads anything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from obdengine.oci.digest import DigestReader, Stream
from obdengine.oci.manifest import Descriptor
from obdengine.source import Source

__all__ = ["OpenStream", "Progress", "Store"]

# Opens the bytes of a blob, from their beginning, each time that it is called;
# who called closes them.
OpenStream = Callable[[], Stream]

# Called with bytes done and bytes in all.
Progress = Callable[[int, int], None]


class Store(Protocol):
    """Images and their blobs; may be used from many threads at the same time.

    Attributes:
        name: what errors call it.
    """

    name: str

    def manifest(self, which: str | None) -> tuple[Descriptor, bytes]:
        """Return a manifest or index and its bytes, by tag or digest.

        None: the only one that there is. Raises SourceMissing, UsageError when
        it is not clear which is meant, DigestMismatch, SourceError.
        """

    def blob(self, descriptor: Descriptor) -> AbstractContextManager[DigestReader]:
        """Return a block's reader of a blob, from its beginning.

        Size and digest are judged when the last byte was read, or by the
        reader's finish(). Raises SourceMissing, DigestMismatch, SourceError.
        """

    def source(self, descriptor: Descriptor) -> Source:
        """Return a blob for reading anywhere in it; the caller closes it.

        Its content is not verified, its size is. Raises as blob().
        """

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there; raises SourceError."""

    def put_blob(
        self,
        descriptor: Descriptor,
        open_stream: OpenStream,
        progress: Progress | None = None,
    ) -> None:
        """Store a blob, verified, unless it is there.

        Raises DigestMismatch when the stream is not that blob, ReadOnly,
        SourceError.
        """

    def mount_blob(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Take a blob from another repository; tell whether that was possible."""

    def put_manifest(self, raw: bytes, media_type: str, tag: str | None) -> Descriptor:
        """Store a manifest or index; tag, where given, names it from now on.

        Raises ReadOnly, SourceError.
        """

    def tags(self) -> list[str]:
        """Return the names of what is there, sorted."""

    def close(self) -> None:
        """Give back what the store holds; twice does nothing."""
