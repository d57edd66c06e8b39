# SPDX-License-Identifier: Apache-2.0
"""
tls - who may read an export on its way: the options of `obd serve` for TLS.

nbdkit does it, or QEMU's daemon. An export that leaves the host must have it, or
somebody must have said that it shall not; one on a unix socket or 127.0.0.1
need not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import click

from obdengine.errors import UsageError

__all__ = ["Tls", "tls_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Tls(NamedTuple):
    """What is said about TLS.

    Attributes:
        off: that there shall be none.
        certificates: the folder of certificates, as nbdkit wants it.
        psk: the file of keys that both sides have.
        verify: whether clients need certificates as well.
    """

    off: bool = False
    certificates: Path | None = None
    psk: Path | None = None
    verify: bool = False

    @property
    def on(self) -> bool:
        """Whether clients have to use it."""
        return self.certificates is not None or self.psk is not None

    def check(self, bind: str, port: int | None, engine: str) -> None:
        """Raise UsageError for what makes no sense, or would be read by others."""
        if self.certificates and self.psk:
            raise UsageError("--tls-certificates and --tls-psk exclude each other")
        if self.off and self.on:
            raise UsageError("--no-tls goes without certificates and keys")
        if self.verify and not self.certificates:
            raise UsageError("--tls-verify-peer goes with --tls-certificates")
        if self.on and engine == "native":
            raise UsageError("TLS goes with nbdkit and with qemu-storage-daemon")
        if port and not self.on and not self.off and not _stays_here(bind):
            raise UsageError(
                f"{bind}: anybody could read the disk on its way",
                hint="give --tls-certificates or --tls-psk, or say --no-tls",
            )

    @property
    def options(self) -> list[str]:
        """What nbdkit is told."""
        if not self.on:
            return []
        words = ["--tls=require"]
        if self.certificates:
            words += [f"--tls-certificates={self.certificates.absolute()}"]
            words += ["--tls-verify-peer"] if self.verify else []
        if self.psk:
            words += [f"--tls-psk={self.psk.absolute()}"]
        return words

    @property
    def user(self) -> str:
        """Whose key a client on this machine shows: the first in the file."""
        if self.psk is None:
            return ""
        name, _, _ = self.psk.read_text().partition(":")
        return quote(name.strip(), safe="")

    @property
    def parameters(self) -> dict[str, str]:
        """What a client's URI says, percent-encoded."""
        found = {"tls-certificates": self.certificates, "tls-psk-file": self.psk}
        return {k: quote(str(v.absolute())) for k, v in found.items() if v}


def tls_options(command: _Command) -> _Command:
    """Give a command the options whose names are the fields of Tls."""
    options = [
        click.option(
            "--tls-certificates",
            "certificates",
            type=click.Path(path_type=Path, exists=True),
            metavar="DIR",
            help="TLS, with the certificates in this folder.",
        ),
        click.option(
            "--tls-psk",
            "psk",
            type=click.Path(path_type=Path, exists=True),
            metavar="FILE",
            help="TLS, with the keys in this file, which clients have too.",
        ),
        click.option(
            "--tls-verify-peer",
            "verify",
            is_flag=True,
            help="Clients need certificates as well.",
        ),
        click.option(
            "--no-tls", "off", is_flag=True, help="No TLS, whoever listens on the way."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _stays_here(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
