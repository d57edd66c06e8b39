# SPDX-License-Identifier: Apache-2.0
"""setup - what pyproject.toml cannot hold: cffi's build hooks."""

from shutil import which
from subprocess import run

from setuptools import setup

MODULES = ["obdengine/_core/ffi_build.py:ffibuilder"]

# Only room ext4 needs libext2fs. Without its headers the rest is built.
_asked = [which("cc") or "gcc", "-E", "-", "-o", "/dev/null"]
if run(_asked, input=b"#include <ext2fs/ext2fs.h>\n", capture_output=True).returncode:
    print("libext2fs-dev is not installed: building without room ext4")
else:
    MODULES.append("obdengine/ext4/ffi_build.py:ffibuilder")

setup(cffi_modules=MODULES)
