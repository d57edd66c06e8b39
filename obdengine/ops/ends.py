# SPDX-License-Identifier: Apache-2.0
"""ends - where an image is copied from and to, by the words for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from obdengine import oci
from obdengine.errors import UsageError
from obdengine.ops.local_store import LocalStore
from obdengine.ops.resolve import resolve
from obdengine.service import Service

__all__ = ["End", "open_source", "open_target"]

_Name = str | os.PathLike[str]


class End(NamedTuple):
    """A store, and what the image is called in it."""

    store: oci.Store
    which: str | None


def open_source(image: Sequence[_Name], service: Service, opened: ExitStack) -> End:
    """Return where an image is; opened closes it. Raises as resolve() does."""
    words = [os.fspath(word) for word in image]
    if len(words) == 1 and oci.looks_like_reference(words[0]):
        reference = oci.parse(words[0])
        store = oci.open_store(reference, settings=service.registry)
        opened.callback(store.close)
        return End(store, reference.which)
    client = opened.enter_context(oci.Client(service.registry))
    path = Path(words[-1])
    folder = path.parent if path.suffix == ".json" else None
    found = resolve(words, service=service)
    local = LocalStore(found, words[-1], client, folder)
    opened.callback(local.close)
    return End(local, None)


def open_target(word: str, service: Service, opened: ExitStack) -> End:
    """Return where an image goes: a registry, or a layout, which is made."""
    reference = oci.parse(word)
    if reference.digest:
        raise UsageError(f"{word}: the digest of an image follows from it")
    store = oci.open_store(reference, settings=service.registry, create=True)
    opened.callback(store.close)
    return End(store, reference.which)
