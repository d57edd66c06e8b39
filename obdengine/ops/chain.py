# SPDX-License-Identifier: Apache-2.0
"""
chain - what names a layer together with all that is below it.

OCI's chain ID: of the lowest layer its diff ID, of another the digest of the
chain ID below, a space, and its own diff ID. Nothing is read here.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Sequence
from itertools import accumulate

from obdengine.oci.digest import digest_of

__all__ = ["chain_ids", "uuid_of"]


def chain_ids(diff_ids: Sequence[str], below: str = "") -> list[str]:
    """Return the chain ID of each layer, bottom first; below: that of a base."""
    links = accumulate(diff_ids, _link, initial=below)
    return list(links)[1:]


def uuid_of(chain_id: str) -> str:
    """Return the uuid of a converted layer: 32 digits of its chain ID."""
    return str(uuids.UUID(chain_id.partition(":")[2][:32]))


def _link(below: str, diff_id: str) -> str:
    return digest_of(f"{below} {diff_id}".encode()) if below else diff_id
