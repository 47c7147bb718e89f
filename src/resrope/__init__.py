"""Resonance RoPE and PosGen (arXiv 2403.00071): rotary position embeddings as tables of frequencies.

A RoPE method is a table of rotary_dim/2 frequencies and one attention factor. ``frequencies(spec)``
makes the table; every other layer looks at it, trains with it or turns it into cos/sin.

Importing this package needs the standard library only; ``resrope.rotary`` (torch),
``resrope.analysis`` (numpy), ``resrope.posgen``, ``resrope.models``, ``resrope.export``,
``resrope.longtext``, ``resrope.finetune`` and the functions on whole models (``apply``, ``load``,
``save``, ``register``) load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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

_LAYERS = ("analysis", "export", "finetune", "longtext", "models", "posgen", "rotary")
# What works on whole models, by the module that holds it; these load torch and transformers.
_ON_MODELS = {
    "apply": "resrope.models.apply",
    "load": "resrope.models.load",
    "register": "resrope.models.register",
    "save": "resrope.models.load",
}


def __getattr__(name: str) -> Any:
    if name in _LAYERS:
        return import_module(f"resrope.{name}")
    if name in _ON_MODELS:
        return getattr(import_module(_ON_MODELS[name]), name)
    raise AttributeError(f"module 'resrope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAYERS, *_ON_MODELS])
