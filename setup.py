# SPDX-License-Identifier: Apache-2.0
"""setup - the one statement that pyproject.toml cannot hold: cffi's build hook."""

from setuptools import setup

setup(cffi_modules=["obdengine/_core/ffi_build.py:ffibuilder"])
