# SPDX-License-Identifier: Apache-2.0
"""
guided - readers.py under atheris: `python -m tests.fuzz.guided [libFuzzer options]`.

Only this file needs atheris, which is installed for soak runs alone.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["obdengine"]):
    from tests.fuzz import readers


def main() -> None:
    """Fuzz until the options say stop, or something breaks."""
    atheris.Setup(sys.argv, readers.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
