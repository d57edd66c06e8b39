# SPDX-License-Identifier: Apache-2.0
"""
ops - what needs a whole image: open it, convert it, check it.

Words for a person are the command line's.
"""
