# SPDX-License-Identifier: Apache-2.0
"""
setup - what pyproject.toml cannot hold: cffi's build hook, and nbdkit's filter.

The filter is no Python module, only a shared object that is built like one. It
is left out where nbdkit's headers are missing: everything works without it.
"""

from setuptools import Extension, setup

nbdkit_filter = Extension(
    "obdengine._nbdkit_filter",
    sources=["nbdkit_plugin/filter.c"],
    include_dirs=["obdengine/_core"],
    depends=[
        f"obdengine/_core/{name}.h"
        for name in ("native", "port", "device", "blob", "upper", "segmap", "obd")
    ],
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden"],
    py_limited_api=True,
    optional=True,
)

setup(
    cffi_modules=["obdengine/_core/ffi_build.py:ffibuilder"],
    ext_modules=[nbdkit_filter],
)
