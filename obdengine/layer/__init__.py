# SPDX-License-Identifier: Apache-2.0
"""
layer - one LSMT layer: what it maps, and how one is written.

It compares no layer with another and looks no sector up.
"""

from __future__ import annotations

from obdengine.layer.journal import Journal
from obdengine.layer.reader import Layer, open_layer
from obdengine.layer.shared import open_shared
from obdengine.layer.upper import (
    Upper,
    UpperOptions,
    create_upper,
    map_path,
    open_upper,
)
from obdengine.layer.writer import LayerWriter, Totals

__all__ = [
    "open_layer",
    "open_shared",
    "Layer",
    "open_upper",
    "create_upper",
    "Upper",
    "UpperOptions",
    "map_path",
    "Journal",
    "LayerWriter",
    "Totals",
]
