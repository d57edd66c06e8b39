# SPDX-License-Identifier: Apache-2.0
"""c - tests of the core in C, built without Python, and what builds them."""
