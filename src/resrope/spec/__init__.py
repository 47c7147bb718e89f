"""Ground floor, standard library only: a spec in, a table of frequencies and one factor out."""

from resrope.spec.frequencies import Frequencies, frequencies
from resrope.spec.methods import Method, method, method_name, methods
from resrope.spec.ropespec import RopeSpec
from resrope.spec.scaling import (
    AdjustedBase,
    DynamicNTK,
    Linear,
    Llama3,
    LongRope,
    NTKAware,
    Proportional,
    Scaling,
    Yarn,
)

__all__ = [
    "AdjustedBase",
    "DynamicNTK",
    "Frequencies",
    "Linear",
    "Llama3",
    "LongRope",
    "Method",
    "NTKAware",
    "Proportional",
    "RopeSpec",
    "Scaling",
    "Yarn",
    "frequencies",
    "method",
    "method_name",
    "methods",
]
