# SPDX-License-Identifier: Apache-2.0
"""
ffi_build - how the C core becomes an extension module.

setup.py names this file; cdef.h is what Python may call, and the compiler
checks it against the real headers. The C needs no Python to be compiled.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
PARTS = (
    "blob",
    "chunks",
    "codec",
    "crc32c",
    "device",
    "export",
    "export_read",
    "file",
    "gather",
    "gunzip",
    "helpers",
    "indexer",
    "inflated",
    "io",
    "journal",
    "jump",
    "live",
    "merge",
    "native",
    "port",
    "presence",
    "record",
    "replay",
    "reply",
    "scan",
    "scratch",
    "segmap",
    "quota",
    "space",
    "spans",
    "split",
    "unzstd",
    "upper",
    "window",
    "zblock",
)
# These have no header of their own.
INNER = ("export_read", "quota", "replay", "reply")
SHOWN = tuple(part for part in PARTS if part not in INNER)
# What the headers say of each other; a change in any rebuilds the module.
HEADERS = ("bytes", "obd", "export_parts", "upper_parts", "wire", *SHOWN)

ffibuilder = FFI()
ffibuilder.cdef((HERE / "cdef.h").read_text())
ffibuilder.set_source(
    "obdengine._core._obd",
    "#include <stdlib.h>\n"
    + "".join(f'#include "{part}.h"\n' for part in (*SHOWN, "wire")),
    sources=[f"obdengine/_core/{part}.c" for part in PARTS],
    include_dirs=["obdengine/_core"],
    depends=[f"obdengine/_core/{part}.h" for part in (*HEADERS, "cdef")],
    libraries=["lz4", "z", "zstd"],
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden"],
)
