"""Feature gap at L 4096, L' 1,048,576, 64 features (goal: under 2 s), against brute force where that ends."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

import resrope
from resrope.analysis import feature_gap
from timing import ratio, times

LONG = (4_096, 1_048_576)
SHORT = (512, 2_048)


def brute_force(table: resrope.Frequencies, train: int, test: int) -> np.ndarray:
    """Eq. 8 as a plain numpy product of all pairs of positions."""
    gaps = []
    for theta in table.inv_freq:
        distance = np.arange(train, test)[:, None] - np.arange(train)[None, :]
        gaps.append((2 * np.abs(np.sin(distance * theta / 2))).min(axis=1).max())
    return np.array(gaps)


def measure(rounds: int = 5) -> dict[str, Any]:
    """Seconds for the long case, and how much faster than brute force the short one is."""
    plain = resrope.frequencies(resrope.RopeSpec(head_dim=128))
    resonant = resrope.frequencies(resrope.RopeSpec(head_dim=128, resonance=True))
    long = times(
        {"plain": lambda: feature_gap(plain, *LONG), "resonant": lambda: feature_gap(resonant, *LONG)}, rounds
    )
    short = times(
        {"ours": lambda: feature_gap(plain, *SHORT), "brute": lambda: brute_force(plain, *SHORT)}, rounds
    )
    difference = np.abs(feature_gap(plain, *SHORT).per_feature - brute_force(plain, *SHORT)).max()
    return {
        "lengths": LONG,
        "seconds": {name: median(values) for name, values in long.items()},
        "brute_force_lengths": SHORT,
        "brute_force_over_ours": ratio(short["brute"], short["ours"]),
        "largest_difference": float(difference),
    }
