"""What an engine reads against what it should rotate with; standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from resrope.models.engines.reading import Reading
from resrope.spec import DynamicNTK, Frequencies, LongRope, RopeSpec, frequencies

# Far above float32's rounding and the pow functions of different machines, far below any other method.
_SAME_FREQUENCY = 1e-5
_SAME_FACTOR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """How far an engine's tables are from the wanted ones: largest relative differences, over all layers.

    inv_freq is infinite where a layer is missing or has another number of features.
    """

    inv_freq: float
    attention_factor: float

    @property
    def agrees(self) -> bool:
        """Whether they are the same tables but for rounding."""
        return self.inv_freq <= _SAME_FREQUENCY and self.attention_factor <= _SAME_FACTOR

    def words(self) -> str:
        """What differs, for people."""
        parts = []
        if math.isinf(self.inv_freq):
            parts.append("another number of frequencies")
        elif self.inv_freq > _SAME_FREQUENCY:
            # Too low ends at -100 %.
            times = f"up to {1 + self.inv_freq:.3g} times too high"
            parts.append(f"frequencies {times if self.inv_freq > 1 else f'off by up to {self.inv_freq:.2%}'}")
        if not math.isinf(self.inv_freq) and self.attention_factor > _SAME_FACTOR:
            parts.append(f"attention factor off by {self.attention_factor:.2%}")
        return ", ".join(parts) or "the same table"


def distance(found: Mapping[str, Frequencies], wanted: Mapping[str, Frequencies]) -> Distance:
    """The distance of tables by layer type; an engine's only table serves every layer."""
    inv_freq, factor = 0.0, 0.0
    for layer, table in wanted.items():
        only = next(iter(found.values())) if len(found) == 1 else None
        got = found.get(layer, only)
        if got is None or len(got.inv_freq) != len(table.inv_freq):
            return Distance(inv_freq=math.inf, attention_factor=math.inf)
        pairs = zip(got.inv_freq, table.inv_freq, strict=True)
        inv_freq = max(inv_freq, *(_relative(a, b) for a, b in pairs))
        factor = max(factor, _relative(got.attention_factor, table.attention_factor))
    return Distance(inv_freq=inv_freq, attention_factor=factor)


def apart(reading: Reading, specs: Mapping[str, RopeSpec]) -> Distance:
    """How far an engine is from what a config means, within the original length and beyond it.

    For configs whose table depends on the length (LongRoPE's two sets of factors, dynamic NTK).
    """
    near, far = (
        distance(tables, {layer: frequencies(_at(spec, beyond=beyond)) for layer, spec in specs.items()})
        for tables, beyond in ((reading.tables, False), (reading.beyond or reading.tables, True))
    )
    return Distance(
        inv_freq=max(near.inv_freq, far.inv_freq),
        attention_factor=max(near.attention_factor, far.attention_factor),
    )


def _at(spec: RopeSpec, *, beyond: bool) -> RopeSpec:
    """``spec`` at its original length, or at the one it promises."""
    scaling = spec.scaling
    if not isinstance(scaling, DynamicNTK | LongRope) or scaling.seq_len is not None:
        return spec
    original = scaling.original_max_position_embeddings
    return spec.at_length(max(round(scaling.factor * original), original + 1) if beyond else original)


def _relative(got: float, wanted: float) -> float:
    return abs(got - wanted) / wanted if wanted else (0.0 if got == wanted else math.inf)


def objection(reading: Reading, wanted: Mapping[str, Frequencies], length: int) -> str | None:
    """Why the engine would not rotate with ``wanted`` up to ``length`` tokens, in words; None if it would."""
    if reading.refusal is not None:
        return reading.refusal
    ranges = [("", reading.tables)]
    if reading.beyond is not None and (reading.boundary or 0) < length:
        ranges.append((f" beyond {reading.boundary} tokens", reading.beyond))
    for where, tables in ranges:
        found = distance(tables, wanted)
        if not found.agrees:
            return explained(reading, found, where)
    return None


def explained(reading: Reading, found: Distance, where: str = "") -> str:
    """Why an engine's tables are ``found`` off: what it ignores, and by how much it differs."""
    why = " ".join(reading.ignored).rstrip(".") or f"{reading.engine} reads it otherwise"
    return f"{why} ({found.words()}{where})"
