"""torch: exact cos/sin tables, rotation in both layouts, and the RotaryEmbedding module."""

from resrope.rotary.rotation import LAYOUTS, Layout, RotaryEmbedding, apply_rotary
from resrope.rotary.tables import cos_sin

__all__ = ["LAYOUTS", "Layout", "RotaryEmbedding", "apply_rotary", "cos_sin"]
