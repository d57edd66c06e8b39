# SPDX-License-Identifier: Apache-2.0
"""
index - the arithmetic of a stack: many layers' entries as one table.

Sectors only. It never reads bytes and knows no file.
"""

from obdengine.index.table import Table, table_of

__all__ = ["Table", "table_of"]
