# SPDX-License-Identifier: Apache-2.0
"""export - which image is served and how, as nbdkit and the plugin are told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.errors import UsageError
from obdengine.layer import UpperOptions
from obdengine.ops.image import open_image

__all__ = ["Writing", "image_keys", "whole_path"]


class Writing(NamedTuple):
    """What is said about writing to an image.

    Attributes:
        read_write: whether its own upper is written to.
        upper: a folder for one over the image, which is made if it is new.
        form: of a new one.
        max_size: most that its data may take, in bytes.
        garbage: overwritten data kept, in bytes.
    """

    read_write: bool = False
    upper: Path | None = None
    form: str | None = None
    max_size: int | None = None
    garbage: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Writing:
        """Return what facts() has said."""
        found = {key: options[key] for key in cls._fields if key in options}
        upper = found.get("upper")
        return cls(**{**found, "upper": Path(upper) if upper else None})

    def facts(self) -> dict[str, Any]:
        """Return what differs from the usual, as JSON can have it."""
        said = {"upper": self.upper and str(self.upper.absolute())}
        found = {**self._asdict(), **said}
        return {key: value for key, value in found.items() if value}

    @property
    def wanted(self) -> bool:
        """Whether writes are taken."""
        return self.read_write or self.upper is not None

    def check(self) -> None:
        """Raise UsageError for options that need others."""
        if self.form and not self.upper:
            raise UsageError("--form goes with --upper")
        if not self.wanted and (self.max_size, self.garbage) != (None, None):
            raise UsageError("--max-size and --garbage go with --upper or --read-write")

    def try_open(self, image: Sequence[str]) -> None:
        """Open the image once: here, what is wrong gets its own exit code."""
        open_image(
            list(image),
            readonly=not self.wanted,
            upper=self.upper,
            form=self.form or "append",
            options=UpperOptions(self.max_size, self.garbage),
        ).close()

    @property
    def keys(self) -> list[str]:
        """What the plugin is told."""
        pairs = {
            "upper": self.upper and self.upper.absolute(),
            "form": self.form,
            "max-size": self.max_size,
            "garbage": self.garbage,
        }
        said = [f"{key}={value}" for key, value in pairs.items() if value is not None]
        return [*said, "readonly=false"] if self.wanted else said


def image_keys(image: Sequence[str]) -> list[str]:
    """Return what names an image to the plugin."""
    return [f"config={whole_path(word)}" for word in image]


def whole_path(word: str) -> str:
    """Return a word for an image that means the same in any folder."""
    return word if _is_reference(word) else str(Path(word).absolute())


def _is_reference(word: str) -> bool:
    return "://" in word or word.startswith(("oci:", "oci-archive:", "docker-archive:"))
