"""Peers timed in turn within one process, so that a noisy neighbour hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def times(peers: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every peer in every round, after one round that does not count."""
    for peer in peers.values():
        peer()
    found: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, peer in peers.items():
            start = time.perf_counter()
            peer()
            found[name].append(time.perf_counter() - start)
    return found


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median over rounds of the rounds' ratios."""
    return median(a / b for a, b in zip(numerator, denominator, strict=True))
