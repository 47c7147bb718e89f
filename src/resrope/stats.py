"""What 95 % intervals of a few values rest on, and means over seeds with theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean, standard deviation and 95 % interval of the mean; one value has neither of the last two."""

    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None


def t95(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t for ``degrees`` of freedom, at least 1."""
    return _T95[degrees - 1] if degrees <= len(_T95) else 1.96 + 2.4 / degrees


def summarise(values: Sequence[float]) -> Summary | None:
    """The summary of one value per seed, by Student's t; None without values."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) == 1:
        return Summary(values=tuple(values), mean=mean, std=None, low=None, high=None)
    spread = stdev(values)
    half = t95(len(values) - 1) * spread / math.sqrt(len(values))
    return Summary(values=tuple(values), mean=mean, std=spread, low=mean - half, high=mean + half)
