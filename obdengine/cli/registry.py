# SPDX-License-Identifier: Apache-2.0
"""registry - options that say how registries are spoken to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from obdengine import oci
from obdengine.service import Service, usual_service

__all__ = ["REGISTRY_OPTIONS", "registry_options", "service_of"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

# What registry_options() gives a command.
REGISTRY_OPTIONS = [
    *("authfile", "cert_dir", "insecure", "plain_http"),
    *("parallel", "deadline"),
]

# Tries in a row, for a person who waits for an answer.
_ATTEMPTS = 6


_OPTIONS = [
    click.option(
        "--authfile",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Credentials, in place of docker's and containers' files.",
    ),
    click.option(
        "--cert-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Certificates: DIR/HOST[:PORT]/*.crt, *.cert, *.key.",
    ),
    click.option(
        "--insecure", is_flag=True, help="Do not verify certificates of servers."
    ),
    click.option("--plain-http", is_flag=True, help="Speak without TLS."),
    click.option("--parallel", type=click.IntRange(1, 64), help="Blobs at once (4)."),
    click.option(
        "--deadline",
        type=click.FloatRange(1),
        metavar="SECONDS",
        help="How long one request may take, with all its tries (60).",
    ),
]


def registry_options(command: _Command) -> _Command:
    """Give a command the options for service_of()."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def service_of(
    *,
    authfile: Path | None,
    cert_dir: Path | None,
    insecure: bool,
    plain_http: bool,
    parallel: int | None,
    deadline: float | None,
) -> Service:
    """Return the service of this host, with what the options say of it."""
    service = usual_service()
    settings = service.registry
    http = settings.http
    everybody = frozenset({"*"})
    folders = http.cert_folders
    http = replace(
        http,
        attempts=http.attempts or _ATTEMPTS,
        deadline=deadline or http.deadline,
        cert_folders=(cert_dir, *folders) if cert_dir else folders,
        insecure=everybody if insecure else http.insecure,
        plain_http=everybody if plain_http else http.plain_http,
    )
    credentials = settings.credentials
    if authfile:
        credentials = oci.DockerConfig(authfile, needed=True)
    parallel = parallel or settings.parallel
    settings = replace(settings, http=http, credentials=credentials, parallel=parallel)
    return replace(service, registry=settings)
