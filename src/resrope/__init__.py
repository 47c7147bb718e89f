"""Resonance RoPE and PosGen (arXiv 2403.00071): rotary position embeddings as tables of frequencies.

A RoPE method is a table of rotary_dim/2 frequencies and one attention factor. ``frequencies(spec)``
makes the table; every other layer looks at it, trains with it or turns it into cos/sin.

Importing this package needs the standard library only; ``resrope.rotary`` (torch),
``resrope.analysis`` (numpy), ``resrope.posgen`` and ``resrope.models`` load on first use.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from resrope.spec import (
    AdjustedBase,
    DynamicNTK,
    Frequencies,
    Linear,
    Llama3,
    LongRope,
    Method,
    NTKAware,
    Proportional,
    RopeSpec,
    Scaling,
    Yarn,
    frequencies,
    method,
    methods,
)

__version__ = "0.1.0"

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
    "__version__",
    "frequencies",
    "method",
    "methods",
]

_LAYERS = ("analysis", "models", "posgen", "rotary")


def __getattr__(name: str) -> ModuleType:
    if name in _LAYERS:
        return import_module(f"resrope.{name}")
    raise AttributeError(f"module 'resrope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAYERS])
