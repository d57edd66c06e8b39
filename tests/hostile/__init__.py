# SPDX-License-Identifier: Apache-2.0
"""hostile - images that lie, files that are no files, and little memory."""
