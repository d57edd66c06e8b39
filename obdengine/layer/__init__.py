# SPDX-License-Identifier: Apache-2.0
"""
layer - one LSMT layer: what it maps, and how one is written.

It compares no layer with another and looks no sector up.
"""

from __future__ import annotations

from obdengine.layer.reader import Layer, open_layer
from obdengine.layer.writer import LayerWriter, Totals

__all__ = ["open_layer", "Layer", "LayerWriter", "Totals"]
