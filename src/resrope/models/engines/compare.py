"""What an engine reads against what it should rotate with; standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from resrope.models.engines.reading import Reading
from resrope.spec import Frequencies

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


def farther(*distances: Distance) -> Distance:
    """The larger of every difference."""
    return Distance(
        inv_freq=max(d.inv_freq for d in distances),
        attention_factor=max(d.attention_factor for d in distances),
    )


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
            why = " ".join(reading.ignored).rstrip(".") or f"{reading.engine} reads it otherwise"
            return f"{why} ({found.words()}{where})"
    return None
