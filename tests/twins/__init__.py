# SPDX-License-Identifier: Apache-2.0
"""
twins - the C core again, short and obvious, in Python.

A twin is the specification of its C kernel: the tests of `tests/core` run over
both. It is not a second engine: it opens no files and nobody is in a hurry.
"""
