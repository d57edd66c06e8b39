# SPDX-License-Identifier: Apache-2.0
"""
target - an original OCI layer, read at any offset of the tar that it holds.

A TurboOCI layer points at its data here. The tar may be stored as it is, or
compressed with an index that says where reading can start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from obdengine import _core
from obdengine.blob import tar, zfile
from obdengine.blob import target_format as format
from obdengine.blob.reader import Blob, Packing, Progress
from obdengine.blob.target_index import read_index
from obdengine.errors import BadMagic, DigestMismatch, FormatError
from obdengine.source import Remote, Resident, Source, resident_of
from obdengine.source.stream import sha256_of

__all__ = ["Target", "open_target"]

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Target(Blob):
    """The tar that an original layer holds, as a stream.

    Attributes:
        digest: what the file must have, "sha256:...", or "".
        index: name of the index, None for a tar as it is.
        members: whether the index is in our own version.
        summed: whether what is inflated is verified by a crc.
    """

    def __init__(
        self, resident: Resident | Remote, index: Resident | None, digest: str
    ) -> None:
        """Read the index; open_target() calls this."""
        source, self.digest = resident.source, digest
        self._index = index
        self.index = index.source.name if index else None
        self.members = self.summed = False
        track = None if resident.complete else source.size
        wrapping = tar.Wrapping(None, 0, source.size)
        packing = Packing(wrapping, zfile.Payload(source, 0, source.size))
        if index is None:
            _judge_plain(source)
            core = _core.Blob.plain(
                resident.fd, 0, source.size, name=source.name, track=track
            )
            super().__init__(resident, core, packing)
            return
        index.fetch(0, index.source.size)
        found = read_index(index, source)
        count = len(found.spans)
        core = _core.spans_blob(resident.fd, found.spans, name=source.name, track=track)
        super().__init__(resident, core, packing)
        self.members, self.summed = found.members, found.summed
        self.codec, self.blocks, self.block_size = found.codec, count, format.SPAN

    def check(
        self, progress: Progress | None = None, *, threads: int | None = None
    ) -> Iterator[FormatError]:
        """Yield everything that is wrong; the digest too, where it is known."""
        yield from super().check(progress, threads=threads)
        if self.digest.startswith("sha256:"):
            found = f"sha256:{sha256_of(self.source)}"
            if found != self.digest:
                yield DigestMismatch(
                    self.name, "digest", expected=self.digest, found=found
                )

    def renew(self, block: int, elsewhere: int) -> None:
        """Fetch a span again that turned out to be wrong."""
        if isinstance(self.resident, Remote) and isinstance(self.core, _core.SpansBlob):
            self.resident.renew(*self.core.span(block), elsewhere)

    def close(self) -> None:
        """Close target and index."""
        super().close()
        if self._index:
            self._index.close()


def open_target(
    source: Source, index: Source | None = None, digest: str = ""
) -> Target:
    """Return the target in source, with the index over it; takes both over.

    Raises FormatError when the index is wrong or is needed and missing, and
    what the sources raise.
    """
    with ExitStack() as undo:
        undo.callback(source.close)
        if index:
            undo.callback(index.close)
        resident = resident_of(source)
        undo.callback(resident.close)
        points = Resident(index) if index else None
        if points:
            undo.callback(points.close)
        target = Target(resident, points, digest)
        undo.pop_all()
        return target


def _judge_plain(source: Source) -> None:
    """Raise BadMagic for a compressed file: taken for a tar it gives garbage."""
    head = source.pread(0, min(4, source.size))
    codec = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    if codec:
        raise BadMagic(
            source.name,
            "not a tar",
            offset=0,
            found=f"{codec}, without an index over it (gzipIndex)",
        )
