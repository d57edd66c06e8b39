# SPDX-License-Identifier: Apache-2.0
"""remote - tests of images that are elsewhere: cache, faults, prefetch."""
