# SPDX-License-Identifier: Apache-2.0
"""vm_files - image files that qemu's tools make, and what they read in them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from obdengine.ops.vm_disks import Level, flat_level, levels_of
from obdengine.ops.vm_images import VmFile, Wanted, chain_of
from tests.tools import requires, tool

NEEDED = requires("qemu-img", "qemu-nbd", "qemu-io")

KIB = 1 << 10
MIB = 1 << 20

# An entry of luks takes as many rounds as fit into this many milliseconds.
_QUICK = "iter-time=10"

# qemu-img create -o for an encrypted file, and the object with its secret.
LUKS = f"encrypt.format=luks,encrypt.key-secret=s,encrypt.{_QUICK}"
AES = "encrypt.format=aes,encrypt.key-secret=s"


def qemu_img(*words: Any) -> str:
    """Run qemu-img and return what it prints; anything but success fails."""
    command = [tool("qemu-img"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (command, done)
    return done.stdout


def qemu_io(path: Path | str, *commands: str, form: str = "qcow2") -> None:
    """Run commands of qemu-io on an image file."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        [tool("qemu-io"), "-f", form, *words, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    assert "failed" not in done.stdout, done


def same(one: Path, other: Path, form: str, other_form: str = "raw") -> None:
    """Fail unless qemu-img says that both read the same, whatever is past an end."""
    assert "identical" in qemu_img("compare", "-f", form, "-F", other_form, one, other)


def check(path: Path, form: str) -> None:
    """Fail unless qemu-img finds nothing wrong with a file, or cannot check it."""
    command = [tool("qemu-img"), "check", "-f", form, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 63), done


def write(raw: Path, path: Path, form: str, *options: str) -> Path:
    """Make path an image file with the content of raw."""
    more = [word for option in options for word in ("-o", option)]
    qemu_img("convert", "-f", "raw", "-O", form, *more, raw, path)
    return path


def overlay(path: Path, below: Path, below_form: str, *options: str) -> Path:
    """Make an empty qcow2 over another file, which is named as it is."""
    more = [word for option in options for word in ("-o", option)]
    words = ("create", "-q", "-f", "qcow2", "-b", below, "-F", below_form, *more, path)
    qemu_img(*words)
    return path


def flat(path: Path, target: Path, form: str = "qcow2") -> bytes:
    """Return what qemu reads of an image file."""
    qemu_img("convert", "-f", form, "-O", "raw", path, target)
    return target.read_bytes()


def secret(path: Path, text: str = "a pass phrase") -> Path:
    path.write_text(text)
    return path


def encrypted(path: Path, raw: Path, key: Path, form: str, options: str) -> Path:
    """Make path an encrypted image file with the content of raw."""
    facts = json.loads(qemu_img("info", "-f", "raw", "--output=json", raw))
    virtual_size = facts["virtual-size"]
    words = ("--object", f"secret,id=s,file={key}", "-f", form, "-o", options)
    command = [tool("qemu-img"), "create", "-q", *words, path, str(virtual_size)]
    for _ in range(10):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        # On a busy machine qemu cannot always measure how fast it is.
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done
    key_name = "key-secret" if form == "luks" else "encrypt.key-secret"
    target = f"driver={form},{key_name}=s,file.filename={path}"
    words = ("--object", f"secret,id=s,file={key}", "-n", "-f", "raw")
    qemu_img("convert", *words, "--target-image-opts", raw, target)
    return path


def chain(path: Path, **wanted: Any) -> list[VmFile]:
    return chain_of(path, Wanted(**wanted))


def levels(path: Path, **wanted: Any) -> list[Level]:
    found = chain(path, **wanted)
    return levels_of(found, secret=wanted.get("secret"))


def whole(path: Path, **wanted: Any) -> Level:
    return flat_level(chain(path, **wanted), secret=wanted.get("secret"))
