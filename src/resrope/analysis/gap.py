"""How far the phases met beyond the training length lie from those met within it (Eq. 8 and 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resrope.spec import Frequencies
from resrope.spec.check import integer
from resrope.spec.phase import TURN, turns_per_token

Array = NDArray[np.float64]
Turns = NDArray[np.uint64]

_LONGEST = 2**26  # a few arrays of that many 64-bit phases are held at a time
_SHORTER = "train_length must be shorter than test_length"


@dataclass(frozen=True, slots=True)
class Gap:
    """Distances per feature: chords of the unit circle, 0 (met in training) to 2 (opposite)."""

    per_feature: Array

    @property
    def max(self) -> float:
        """The largest over the features."""
        return float(self.per_feature.max())

    @property
    def mean(self) -> float:
        """The mean over the features."""
        return float(self.per_feature.mean())


def feature_gap(table: Frequencies, train_length: int, test_length: int) -> Gap:
    """Eq. 8 per feature: max over n in [L, L') of min over m in [0, L) of 2|sin((n-m)θ/2)|.

    L = train_length, L' = test_length, in tokens. The distance is that of a unit vector rotated to
    positions m and n. As printed, Eq. 8 takes the minimum over n too; Theorem 1 and Figure 1 mean the
    maximum. Exactly 0 where the wavelength is an integer of at most L tokens (Theorem 1).

    Distances depend on n - m alone, so the inner minimum is one over a window of L consecutive
    differences: phases in 64-bit fixed-point turns, and one sliding minimum a feature, O(L').
    Raises ValueError unless 1 <= train_length < test_length.
    """
    integer("train_length", train_length, 1, "tokens seen in training")
    if not isinstance(test_length, int) or test_length <= train_length:
        raise ValueError(f"{_SHORTER}, got {train_length} and {test_length}")
    integer("test_length", test_length, 2, "tokens", _LONGEST)
    steps = np.arange(1, test_length, dtype=np.uint64)
    gaps = [
        _chord(_widest_gap(_turns_from_whole(table, j, steps), train_length))
        if _is_uncovered(table, j, train_length)
        else 0.0
        for j in range(len(table.inv_freq))
    ]
    return Gap(np.array(gaps))


def embedded_vector_distance(table: Frequencies, scaled: Frequencies, length: int, scaled_length: int) -> Gap:
    """Eq. 9 per feature: how far ``scaled`` strays from ``table`` over their own lengths (tokens).

    max over j in [0, scaled_length) of min over k in [0, length) of the chord between k·θ and j·θ̂.
    As printed, Eq. 9 takes the minimum over both, which position 0 makes 0 for every pair of tables;
    this is the directed distance it can only mean. Raises ValueError on tables of different size.
    """
    integer("length", length, 1, "tokens", _LONGEST)
    integer("scaled_length", scaled_length, 1, "tokens", _LONGEST)
    if len(table.inv_freq) != len(scaled.inv_freq):
        raise ValueError(
            f"tables must have as many features, got {len(table.inv_freq)} and {len(scaled.inv_freq)}"
        )
    original = np.arange(length, dtype=np.uint64)
    stretched = np.arange(scaled_length, dtype=np.uint64)
    gaps = [
        _chord(_farthest(np.sort(_phases(table, j, original)), _phases(scaled, j, stretched)))
        for j in range(len(table.inv_freq))
    ]
    return Gap(np.array(gaps))


def _is_uncovered(table: Frequencies, j: int, train_length: int) -> bool:
    return table.periods is None or table.periods[j] > train_length


def _phases(table: Frequencies, j: int, positions: Turns) -> Turns:
    """position · θ_j in units of 2^-64 turns; exact residues first where the wavelength is an integer."""
    step = turns_per_token(table.inv_freq[j])
    if table.periods is not None:
        positions, step = positions % np.uint64(table.periods[j]), (TURN // table.periods[j]) % TURN
    phases: Turns = positions * np.uint64(step)
    return phases


def _turns_from_whole(table: Frequencies, j: int, positions: Turns) -> Turns:
    """Distance of each phase from a whole turn, at most half a turn."""
    phases = _phases(table, j, positions)
    distances: Turns = np.minimum(phases, np.negative(phases))
    return distances


def _widest_gap(distances: Turns, window: int) -> int:
    """max over all windows of ``window`` consecutive entries of their minimum.

    van Herk's algorithm: cut into blocks of one window; a window's minimum is the smaller of a suffix
    minimum of one block and a prefix minimum of the next.
    """
    padding = -len(distances) % window
    blocks = np.pad(distances, (0, padding), mode="edge").reshape(-1, window)
    prefix = np.minimum.accumulate(blocks, axis=1).ravel()
    suffix = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    starts = len(distances) - window + 1
    return int(np.minimum(suffix[:starts], prefix[window - 1 : window - 1 + starts]).max())


def _farthest(sorted_phases: Turns, queries: Turns) -> int:
    """max over ``queries`` of the distance around the circle to the nearest of ``sorted_phases``."""
    above = np.searchsorted(sorted_phases, queries) % len(sorted_phases)
    distance = [sorted_phases[i] - queries for i in (above, above - 1)]
    return int(np.minimum(*(np.minimum(d, np.negative(d)) for d in distance)).max())


def _chord(turns: int) -> float:
    return 2 * math.sin(math.pi * turns / TURN)
