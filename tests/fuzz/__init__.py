# SPDX-License-Identifier: Apache-2.0
"""fuzz - coverage-guided fuzzers over the C core and over the Python readers."""
