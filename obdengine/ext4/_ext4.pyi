# SPDX-License-Identifier: Apache-2.0
"""_ext4 - the compiled module, as mypy sees it: cffi makes its names at build."""

from typing import Any

ffi: Any
lib: Any
