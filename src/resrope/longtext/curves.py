"""From losses by token to perplexity by length and by block, with intervals. Pure functions.

Perplexities are weighted by tokens: exp of all nats over all tokens, not a mean of the texts' perplexities.
Intervals are of 95 %, from texts drawn again with replacement: the percentile bootstrap, which is too narrow
for few texts, with its percentiles moved outwards (the expanded percentile interval, arXiv 1411.5279).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from resrope.stats import t_quantile

SAMPLES = 10_000
# Fewer texts drawn again give intervals that are far too narrow.
ENOUGH = 5

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Summed losses: ``nats`` and ``tokens``, both [texts, cells]; 0 tokens where a text does not reach."""

    nats: Array
    tokens: Array

    def texts(self) -> list[int]:
        """How many texts have tokens in each cell."""
        return [int(n) for n in (self.tokens > 0).sum(0)]

    def perplexity(self) -> list[float | None]:
        """Of every cell; None where no text has tokens, or the number is too large for a float."""
        return [_number(p) for p in _perplexity(self.nats.sum(0), self.tokens.sum(0))]

    def intervals(self, seed: int = 0) -> list[tuple[float, float] | None]:
        """Of every cell's perplexity; None with fewer than five texts."""
        weights = _resampled(len(self.nats), seed)
        drawn = _perplexity(weights @ self.nats, weights @ self.tokens)
        return _percentiles(drawn, self.texts())


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """One method's perplexity over another's, on the same tokens; low and high are None for a few texts."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 1 out."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


def ratios(one: Tally, other: Tally, seed: int = 0) -> list[Ratio | None]:
    """Of every cell, one's perplexity over the other's; texts are drawn for both at once (paired).

    Raises ValueError unless both counted the same tokens.
    """
    if not np.array_equal(one.tokens, other.tokens):
        raise ValueError("a ratio of perplexities needs the same tokens on both sides")
    apart = Tally(nats=one.nats - other.nats, tokens=one.tokens)
    found = zip(apart.perplexity(), apart.intervals(seed), strict=True)
    return [None if p is None else Ratio(ratio=p, low=i and i[0], high=i and i[1]) for p, i in found]


def tally(cells: Sequence[Sequence[NDArray[np.float32]]]) -> Tally:
    """From the losses of every text (outer) in every cell (inner), empty where it has none."""
    return Tally(
        nats=np.array([[float(c.sum(dtype=np.float64)) for c in row] for row in cells], dtype=np.float64),
        tokens=np.array([[len(c) for c in row] for row in cells], dtype=np.float64),
    )


def _perplexity(nats: Array, tokens: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        made: Array = np.exp(nats / tokens)
    return made


def _resampled(texts: int, seed: int) -> Array:
    """How often each text is drawn [SAMPLES, texts]."""
    draws = np.random.default_rng(seed).multinomial(texts, [1 / texts] * texts, size=SAMPLES)
    return draws.astype(np.float64)


def _percentiles(drawn: Array, texts: list[int]) -> list[tuple[float, float] | None]:
    made: list[tuple[float, float] | None] = []
    for column, count in zip(drawn.T, texts, strict=True):
        known = column[np.isfinite(column)]
        if count < ENOUGH or not len(known):
            made.append(None)
            continue
        low, high = np.quantile(known, [_tail(count), 1 - _tail(count)])
        made.append((float(low), float(high)))
    return made


def _tail(texts: int) -> float:
    """The share of samples beyond either end of an interval; 2.5 % where there are many texts."""
    return NormalDist().cdf(-t_quantile(texts - 1) * sqrt(texts / (texts - 1)))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
