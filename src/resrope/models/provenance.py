"""What the ``resrope`` key of a written config says: which method made its table, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resrope.models.extension import Extension
from resrope.spec import LongRope, RopeSpec, Yarn, frequencies


def provenance(extension: Extension, *, folded: bool = False, engine: str | None = None) -> dict[str, Any]:
    """JSON types: method, length, the spec of every layer type, and the integer wavelengths where resonant.

    engine: who the checkpoint was written for.
    folded: the attention factor went into the weights; the specs then say 1, and the factor stands
    under folded_attention_factor.
    """
    from resrope import __version__

    specs = {
        layer: applied(spec, folded and layer in extension.layers)
        for layer, spec in extension.after.specs.items()
    }
    periods = {layer: frequencies(spec).periods for layer, spec in specs.items()}
    factors = {frequencies(extension.after.specs[layer]).attention_factor for layer in extension.layers}
    out: dict[str, Any] = {
        "version": __version__,
        "method": extension.method,
        "length": extension.length,
        "specs": {layer: spec.to_dict() for layer, spec in specs.items()},
        "wavelengths": {layer: list(p) for layer, p in periods.items() if p is not None},
    }
    if engine is not None:
        out["engine"] = engine
    in_weights = max(factors) if folded else extension.before.folded_attention_factor
    return out if in_weights is None else {**out, "folded_attention_factor": in_weights}


def applied(spec: RopeSpec, folded: bool) -> RopeSpec:
    """``spec`` with attention factor 1 where that factor has gone into the weights."""
    if not folded or not isinstance(spec.scaling, Yarn | LongRope):
        return spec
    return replace(spec, scaling=replace(spec.scaling, attention_factor=1.0))
