# SPDX-License-Identifier: Apache-2.0
"""answers - what the client of a block device is told of an error: a number."""

from __future__ import annotations

import errno
import traceback

from obdengine.errors import ObdError

__all__ = ["number_of"]

# What NBD has a number for. All else nbdkit would call EINVAL, as if it were
# the client's mistake.
_KNOWN = {
    *(errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EDQUOT, errno.EFBIG),
    *(errno.ENOSPC, errno.EINVAL, errno.EOVERFLOW, errno.ENOTSUP, errno.ESHUTDOWN),
}


def number_of(error: ObdError | OSError) -> int:
    """Return the errno for a client, and let go of what the error holds.

    The frames below may hold a server's buffer, which goes when it answers.
    """
    link: BaseException | None = error
    while link:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error.errno if error.errno in _KNOWN else errno.EIO
