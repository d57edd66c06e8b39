# SPDX-License-Identifier: Apache-2.0
"""certificates - a small authority of our own, made by openssl for one run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.tools import environment, tool

__all__ = ["Pair", "make_authority", "make_pair"]

NAMES = "DNS:localhost,DNS:registry.example,IP:127.0.0.1,IP:::1"


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: Path
    key: Path


def make_authority(folder: Path, name: str = "authority") -> Pair:
    """Make a certificate that can sign others."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-keyout", pair.key, "-out", pair.certificate, "-subj", f"/CN={name}"),
    )
    return pair


def make_pair(folder: Path, authority: Pair, name: str) -> Pair:
    """Make a certificate for this machine, signed by authority."""
    pair = Pair(folder / f"{name}.cert", folder / f"{name}.key")
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-keyout", pair.key, "-out", pair.certificate),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName={NAMES}"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-CA", authority.certificate, "-CAkey", authority.key),
    )
    return pair


def _openssl(*words: object) -> None:
    command = [tool("openssl"), *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, env=environment())
