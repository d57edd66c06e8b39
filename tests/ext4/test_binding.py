# SPDX-License-Identifier: Apache-2.0
"""test_binding - what obdengine says where room ext4 was not built."""

from __future__ import annotations

import subprocess
import sys

from tests.tools import ROOT

SCRIPT = """
import sys
sys.modules["obdengine.ext4._ext4"] = None
import obdengine
from obdengine import ext4
from obdengine.errors import CoreError
from obdengine.ops.build import build
try:
    with ext4.open_file_system(None):
        pass
except CoreError as error:
    print(error)
"""


def test_without_libext2fs_the_rest_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "cannot work on file systems" in done.stdout
    assert "install libext2fs-dev" in done.stdout
