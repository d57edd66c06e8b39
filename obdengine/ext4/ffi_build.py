# SPDX-License-Identifier: Apache-2.0
"""
ffi_build - how the file system part becomes an extension module of its own.

setup.py names this file when libext2fs is here to build with; without it
the rest of obdengine works, and room ext4 says what is missing.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
PARTS = (
    "alloc",
    "cache",
    "dir",
    "dirblock",
    "file",
    "fs",
    "htree",
    "inode",
    "manager",
    "xattr",
)
HEADERS = ("cache", "cdef", "dir", "ext4", "manager")

ffibuilder = FFI()
ffibuilder.cdef((HERE / "cdef.h").read_text())
ffibuilder.set_source(
    "obdengine.ext4._ext4",
    '#include <stdlib.h>\n#include "ext4.h"\n',
    sources=[f"obdengine/ext4/{part}.c" for part in PARTS],
    # Of the core only its words: what an obd_device is, it is told.
    include_dirs=["obdengine/ext4", "obdengine/_core"],
    depends=[f"obdengine/ext4/{part}.h" for part in HEADERS]
    + ["obdengine/_core/obd.h"],
    libraries=["ext2fs", "com_err"],
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden"],
)
