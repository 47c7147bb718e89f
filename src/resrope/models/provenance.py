"""The ``resrope`` key of a config: which method made its table, with the integer wavelengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resrope.spec import Frequencies, LongRope, RopeSpec, Yarn, frequencies

if TYPE_CHECKING:
    from resrope.models.extension import Extension

KEY = "resrope"


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


def recorded_specs(config: Mapping[str, Any]) -> dict[str, RopeSpec] | None:
    """The specs that a config's ``resrope`` key records, by layer type; None without the key.

    Raises ValueError when the key cannot be read or its integer wavelengths are not those of its specs.
    """
    record = config.get(KEY)
    if record is None:
        return None
    if not isinstance(record, Mapping) or not isinstance(record.get("specs"), Mapping):
        raise ValueError(f"the config's {KEY} key must hold specs by layer type, got {record!r:.80}")
    specs = {layer: RopeSpec.from_dict(spec) for layer, spec in record["specs"].items()}
    for layer, periods in dict(record.get("wavelengths") or {}).items():
        if layer not in specs or _periods(frequencies(specs[layer])) != list(periods):
            raise ValueError(f"the config's {KEY} key has other wavelengths than its specs give ({layer})")
    return specs


def _periods(table: Frequencies) -> list[int] | None:
    return None if table.periods is None else list(table.periods)
