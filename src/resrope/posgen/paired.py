"""Cells that differ in one thing, seed by seed: the same sequences, the same initial weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resrope.posgen.evaluate import counted
from resrope.posgen.settings import Settings

Record = Mapping[str, Any]
Measure = Callable[[Record], float]


def ood(settings: Settings, checkpoint: str = "last") -> Measure:
    """OOD accuracy of a cell's record, 0 to 1, counted anew from what was right at every position."""

    def measure(record: Record) -> float:
        share = counted(settings, record["cell"]["task"], record[checkpoint])["ood"]
        assert share is not None, "test_length > train_length"
        return share

    return measure


def paired(one: Mapping[int, Record], other: Mapping[int, Record], measure: Measure) -> list[float]:
    """``measure`` of ``one`` minus that of ``other``, both by seed, at the seeds that both have."""
    return [measure(one[seed]) - measure(other[seed]) for seed in sorted(one.keys() & other.keys())]
