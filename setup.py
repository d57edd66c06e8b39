# SPDX-License-Identifier: Apache-2.0
"""
setup - what pyproject.toml cannot hold: cffi's build hooks, and nbdkit's filter.

The filter is no Python module, only a shared object that is built like one. It
is left out where nbdkit's headers are missing: everything works without it.
"""

from shutil import which
from subprocess import run

from setuptools import Extension, setup

MODULES = ["obdengine/_core/ffi_build.py:ffibuilder"]

# Only room ext4 needs libext2fs. Without its headers the rest is built.
_asked = [which("cc") or "gcc", "-E", "-", "-o", "/dev/null"]
if run(_asked, input=b"#include <ext2fs/ext2fs.h>\n", capture_output=True).returncode:
    print("libext2fs-dev is not installed: building without room ext4")
else:
    MODULES.append("obdengine/ext4/ffi_build.py:ffibuilder")

nbdkit_filter = Extension(
    "obdengine._nbdkit_filter",
    sources=["nbdkit_plugin/filter.c"],
    include_dirs=["obdengine/_core"],
    depends=[
        f"obdengine/_core/{name}.h"
        for name in (
            "native",
            "port",
            "device",
            "gather",
            "blob",
            "presence",
            "spans",
            "upper",
            "segmap",
            "obd",
        )
    ],
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden"],
    py_limited_api=True,
    optional=True,
)

setup(cffi_modules=MODULES, ext_modules=[nbdkit_filter])
