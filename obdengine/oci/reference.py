# SPDX-License-Identifier: Apache-2.0
"""
reference - where a container image is, as one writes it on a command line.

    docker://host[:port]/repository[:tag][@digest]
    oci:DIR[:TAG]            oci:DIR[@DIGEST]
    oci-archive:FILE[:TAG]   docker-archive:FILE[:NAME[:TAG]]

The words are skopeo's. Nothing is opened here, and no host is guessed: one
that is not written is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from obdengine.errors import UsageError

__all__ = [
    "ARCHIVE",
    "DEFAULT_TAG",
    "DOCKER_ARCHIVE",
    "LAYOUT",
    "REGISTRY",
    "Reference",
    "looks_like_reference",
    "parse",
]

REGISTRY = "docker"
LAYOUT = "oci"
ARCHIVE = "oci-archive"
DOCKER_ARCHIVE = "docker-archive"

DEFAULT_TAG = "latest"

_LOCAL = (LAYOUT, ARCHIVE, DOCKER_ARCHIVE)
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)")
_MAX_REPOSITORY = 255


@dataclass(frozen=True)
class Reference:
    """An image somewhere.

    Attributes:
        transport: REGISTRY, LAYOUT, ARCHIVE or DOCKER_ARCHIVE.
        path: of the folder or file, "" for a registry.
        host: of a registry, with its port when that was said, else "".
        repository: in the registry, else "".
        tag: "" when none was said. In a layout it may be any text.
        digest: "sha256:...", "" when none was said.
    """

    transport: str
    path: str = ""
    host: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def which(self) -> str | None:
        """What to ask a store for: the digest, else the tag; None: neither was said.

        In a registry "latest" is what is meant then.
        """
        default = DEFAULT_TAG if self.transport == REGISTRY else None
        return self.digest or self.tag or default

    def __str__(self) -> str:
        """Return it as it is written."""
        end = f":{self.tag}" if self.tag else ""
        end += f"@{self.digest}" if self.digest else ""
        if self.transport == REGISTRY:
            return f"{REGISTRY}://{self.host}/{self.repository}{end}"
        return f"{self.transport}:{self.path}{end}"


def looks_like_reference(text: str) -> bool:
    """Tell whether text is meant as a reference and not as a path."""
    word, separator, _ = text.partition(":")
    return bool(separator) and (word in _LOCAL or text.startswith(f"{REGISTRY}://"))


def parse(text: str) -> Reference:
    """Return what text refers to; raises UsageError with what is wrong about it."""
    transport, separator, rest = text.partition(":")
    if separator and transport in _LOCAL:
        return _parse_local(text, transport, rest)
    if separator and transport == REGISTRY:
        if not rest.startswith("//"):
            raise _wrong(text, "a registry is written docker://host/repository")
        return _parse_registry(text, rest[2:])
    raise UsageError(
        f"{text!r} is not a reference to a container image",
        hint="docker://host/repository:tag, oci:DIR:TAG, oci-archive:FILE or "
        "docker-archive:FILE",
    )


def _parse_local(text: str, transport: str, rest: str) -> Reference:
    # As skopeo has it: a path has no colon, a tag may have some.
    if "\0" in text:
        raise _wrong(text, "a path has no NUL")
    path, at, digest = rest.rpartition("@")
    if at and _DIGEST.fullmatch(digest):
        tag = ""
        path, _, tag = path.partition(":")
    else:
        digest = ""
        path, colon, tag = rest.partition(":")
        if colon and not tag:
            raise _wrong(text, "nothing is behind the last colon")
    if not path:
        raise _wrong(text, "no folder" if transport == LAYOUT else "no file")
    return Reference(transport, path=path, tag=tag, digest=digest)


def _parse_registry(text: str, rest: str) -> Reference:
    rest, at, digest = rest.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, "a digest is sha256: and 64 digits or letters a to f")
    host, slash, name = rest.partition("/")
    if not slash:
        raise _wrong(text, "a registry is written docker://host/repository")
    _judge_host(text, host)
    repository, colon, tag = name.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "a tag has letters, digits, '_', '.' and '-', at most 128")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _MAX_REPOSITORY:
        raise _wrong(
            text, "a repository has lower case letters, digits, and '.', '_', '-', '/'"
        )
    return Reference(REGISTRY, "", host, repository, tag, digest)


def _judge_host(text: str, host: str) -> None:
    found = _HOST.match(host)
    rest = host[found.end() :] if found else ""
    port = rest[1:] if rest.startswith(":") else ""
    if not found or (rest and not port) or (rest and not port.isascii()):
        raise _wrong(text, "the host cannot be made out")
    if port and not (port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise _wrong(text, f"{port} is not a port")
    # "docker://debian/x" may mean a repository of somebody's favourite registry.
    if not (port or "." in host or host.startswith("[") or host == "localhost"):
        raise _wrong(text, f"{host!r} is not the full name of a host")


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"{text}: {why}")
