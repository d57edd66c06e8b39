# SPDX-License-Identifier: Apache-2.0
"""export - which image is served and how, as nbdkit and the plugin are told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.layer import UpperOptions
from obdengine.ops.background import Serving
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.image import open_image
from obdengine.ops.resolve import absolute

__all__ = ["Writing", "image_keys"]


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

    def open(
        self,
        image: Sequence[str],
        service: Path | None = None,
        serving: Serving | None = None,
    ) -> Device:
        """Open the image as it is to be served; raises as open_image()."""
        return open_image(
            list(image),
            readonly=not self.wanted,
            upper=self.upper,
            form=self.form or "append",
            options=UpperOptions(self.max_size, self.garbage),
            service=service,
            serving=serving,
        )

    def config_of(self, image: Sequence[str]) -> Path:
        """Return the configuration that describes the image with its upper."""
        found = self.upper / CONFIG_NAME if self.upper else Path(image[0])
        return found.absolute()

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
    return [f"config={absolute(word)}" for word in image]
