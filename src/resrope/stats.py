"""What 95 % intervals of a few values rest on, and means over seeds with theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean, standard deviation and interval of the mean; one value has neither of the last two."""

    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """1 where the interval lies above 0, -1 where it lies below, 0 where it does neither or is none."""
        return 0 if self.low is None or self.high is None else (self.low > 0) - (self.high < 0)


@cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """The two-sided quantile of Student's t for ``degrees`` of freedom, at least 1, and 0 < level < 1."""
    low, high = 0.0, 1.0
    while _within(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """Student's probability of −t … t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    odd, square = degrees % 2, math.cos(angle) ** 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for n in range(odd, degrees - 1, 2):
        total += term
        term *= square * (n + 1) / (n + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def summarise(values: Sequence[float], level: float = 0.95) -> Summary | None:
    """The summary of one value per seed, by Student's t; None without values. level: of the interval."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) == 1:
        return Summary(values=tuple(values), mean=mean, std=None, low=None, high=None)
    spread = stdev(values)
    half = t_quantile(len(values) - 1, level) * spread / math.sqrt(len(values))
    return Summary(values=tuple(values), mean=mean, std=spread, low=mean - half, high=mean + half)
