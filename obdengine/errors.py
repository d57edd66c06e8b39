# SPDX-License-Identifier: Apache-2.0
"""
errors - everything that obdengine raises, in one tree.

    ObdError                    EIO
    +-- UsageError              EINVAL   the request makes no sense as asked
    |   +-- OutOfRange          EINVAL   outside the disk or the file
    |   +-- ConfigError         EINVAL   a configuration file is wrong
    |   +-- LimitError          EFBIG    more than readers of the format accept
    |   +-- ReadOnly            EROFS    a write to a disk opened for reading
    |   +-- Busy                EBUSY    somebody else is writing to it
    |   +-- Closed              EBADF    used after close()
    +-- SourceError             EIO      the bytes cannot be had (or put)
    |   +-- SourceMissing       ENOENT   there is nothing at that place
    |   +-- ShortSource         EIO      it ended before the bytes asked for
    |   +-- SourceChanged       ESTALE   it is not what it was when it was opened
    |   +-- AccessDenied        EACCES   a server wants other credentials
    |   +-- TimedOut            ETIMEDOUT  no answer before the deadline
    |   +-- BadAnswer           EIO      a server answered what was not asked
    +-- FormatError             EIO      the bytes are there and they are wrong
    |   +-- BadMagic                     not what it was taken for
    |   +-- Unsupported                  well formed, but not something we read
    |   +-- BadHeader                    a field of a header or trailer
    |   +-- BadIndex                     an entry of an LSMT index
    |   +-- BadJumpTable                 the block table of a ZFile
    |   +-- BadTargetIndex               the index over a compressed target
    |   +-- BadChecksum                  a crc does not match
    |   +-- BadBlock                     a block does not inflate
    |   +-- BadTar                       a tar archive, or a member of one
    |   +-- BadFileSystem                what ext4 keeps on a disk
    |   +-- BadManifest                  a manifest, an index or an image config
    |   +-- DigestMismatch               a blob is not the one that its digest names
    +-- CoreError               EIO      the C core cannot work here
    +-- HostError               EIO      a program or the kernel here did not do it
    +-- VmError                 EIO      QEMU or libvirt refused
        +-- VmTimeout           ETIMEDOUT  nothing came of it in time

Every error has an errno, which a block device's client sees, and a sentence,
which a person sees. The cause, where there is one, is chained with `from`.
A FormatError says where: file, byte offset, what was expected and found.
"""

from __future__ import annotations

import errno as _errno

__all__ = [
    "AccessDenied",
    "BadAnswer",
    "BadBlock",
    "BadChecksum",
    "BadFileSystem",
    "BadHeader",
    "BadIndex",
    "BadJumpTable",
    "BadMagic",
    "BadTar",
    "BadTargetIndex",
    "BadManifest",
    "Busy",
    "Closed",
    "ConfigError",
    "CoreError",
    "DigestMismatch",
    "FormatError",
    "HostError",
    "LimitError",
    "ObdError",
    "OutOfRange",
    "ReadOnly",
    "ShortSource",
    "SourceChanged",
    "SourceError",
    "SourceMissing",
    "TimedOut",
    "Unsupported",
    "UsageError",
    "VmError",
    "VmTimeout",
]


class ObdError(Exception):
    """Root of the tree.

    Attributes:
        errno: what a block device's client is told, an errno value.
        hint: what the reader can do about it, a sentence, or None.
    """

    errno: int = _errno.EIO

    def __init__(
        self, message: str, *, errno: int | None = None, hint: str | None = None
    ) -> None:
        """Say what is wrong, and optionally what to do about it."""
        super().__init__(message)
        if errno is not None:
            self.errno = errno
        self.hint = hint

    def __str__(self) -> str:
        """Return the sentence, with the hint behind it."""
        text = str(self.args[0])
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(ObdError):
    """The request makes no sense as asked."""

    errno = _errno.EINVAL


class OutOfRange(UsageError):
    """The request reaches outside the disk or the file."""


class ConfigError(UsageError):
    """A configuration file is wrong."""


class LimitError(UsageError):
    """The result would be more than readers of the format accept."""

    errno = _errno.EFBIG


class ReadOnly(UsageError):
    """A write to a disk that was opened for reading."""

    errno = _errno.EROFS


class Busy(UsageError):
    """Somebody else is writing to it."""

    errno = _errno.EBUSY


class Closed(UsageError):
    """The object was closed."""

    errno = _errno.EBADF


class SourceError(ObdError):
    """The bytes cannot be had, or cannot be put where they should go."""


class SourceMissing(SourceError):
    """There is nothing at that place."""

    errno = _errno.ENOENT


class ShortSource(SourceError):
    """A file or blob ended before the bytes that were asked for."""


class SourceChanged(SourceError):
    """What is at that place now is not what was there when it was opened."""

    errno = _errno.ESTALE


class AccessDenied(SourceError):
    """A server does not let these credentials, or nobody, have it."""

    errno = _errno.EACCES


class TimedOut(SourceError):
    """There was no good answer before the deadline."""

    errno = _errno.ETIMEDOUT


class BadAnswer(SourceError):
    """A server answered something else than what it was asked for."""


class FormatError(ObdError):
    """The bytes are there, and they are wrong.

    Attributes:
        name: the file or blob.
        offset: where in it, in bytes, or None when it is about the whole.
        expected: what should be there, in words or as a number, or None.
        found: what is there, or None.
    """

    def __init__(
        self,
        name: str,
        what: str,
        *,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        """Say which file, where in it, what is wrong and how."""
        where = name if offset is None else f"{name}: offset {offset}"
        detail = ""
        if expected is not None:
            detail = f": expected {expected}"
        if found is not None:
            detail += f"{',' if detail else ':'} found {found}"
        super().__init__(f"{where}: {what}{detail}", hint=hint)
        self.name = name
        self.what = what
        self.offset = offset
        self.expected = expected
        self.found = found


class BadMagic(FormatError):
    """The file is not of the kind it was taken for."""


class Unsupported(FormatError):
    """Well formed as far as one can tell, but not something this engine reads."""


class BadHeader(FormatError):
    """A field of a header or trailer is wrong."""


class BadIndex(FormatError):
    """An entry of an LSMT index is wrong."""


class BadJumpTable(FormatError):
    """The table of block lengths of a ZFile is wrong."""


class BadTargetIndex(FormatError):
    """The index over a TurboOCI layer's compressed target is wrong."""


class BadChecksum(FormatError):
    """A stored checksum does not match the bytes that it covers."""


class BadBlock(FormatError):
    """A compressed block does not inflate to the size that it must have."""


class BadManifest(FormatError):
    """A document of a container image breaks the rules of its kind."""


class DigestMismatch(FormatError):
    """A blob does not have the size or the digest that it was named by."""


class BadTar(FormatError):
    """A tar archive is damaged, or a member of it cannot be what it says."""


class BadFileSystem(FormatError):
    """A file system on a disk is damaged, or there is none."""


class CoreError(ObdError):
    """The C core is missing, of another version, or out of memory."""


class HostError(ObdError):
    """A program or the kernel of this machine did not do what it was asked for."""


class VmError(ObdError):
    """QEMU or libvirt refused.

    Attributes:
        command: what it was asked for, "" when that is no single command.
        kind: what QEMU calls the error, "" when it does not.
        reason: its own message.
    """

    def __init__(
        self, what: str, *, command: str = "", kind: str = "", reason: str = ""
    ) -> None:
        """Say what could not be done, and what the other side said."""
        super().__init__(f"{what}: {reason}" if reason else what)
        self.command = command
        self.kind = kind
        self.reason = reason


class VmTimeout(VmError):
    """The virtual machine, or a job in it, did not get there in time."""

    errno = _errno.ETIMEDOUT
