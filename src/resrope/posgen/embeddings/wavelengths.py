"""Other integers for Resonance than the nearest: the paper leaves open which combination is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from resrope.spec import Frequencies

Fits = Callable[[int, Sequence[int]], bool]
"""Whether an integer may stand beside those that were chosen before."""


def _distinct(period: int, before: Sequence[int]) -> bool:
    return period not in before


def _prime(period: int, before: Sequence[int]) -> bool:
    prime = period > 1 and all(period % n for n in range(2, math.isqrt(period) + 1))
    return prime and period not in before


def _coprime(period: int, before: Sequence[int]) -> bool:
    return period > 1 and all(math.gcd(period, other) == 1 for other in before)


CHOICES: dict[str, Fits] = {"distinct": _distinct, "prime": _prime, "coprime": _coprime}
"""distinct: no wavelength twice; prime: different primes; coprime: no two with a common divisor."""
LISTED = "listed"


def chosen(table: Frequencies, choice: str) -> Frequencies:
    """``table`` with every wavelength moved to the nearest integer that fits beside the shorter ones.

    Features that do not turn stay as they are.
    """
    fits, periods = CHOICES[choice], list[int]()
    for wavelength in sorted(w for w in table.wavelengths if math.isfinite(w)):
        periods.append(next(p for p in _outwards(wavelength) if fits(p, periods)))
    return listed(table, periods)


def listed(table: Frequencies, periods: Sequence[int]) -> Frequencies:
    """``table`` with ``periods`` in the place of the wavelengths of the features that turn, the shortest
    first.

    Raises ValueError unless there are as many.
    """
    turning = sorted((i for i, f in enumerate(table.inv_freq) if f), key=lambda i: -table.inv_freq[i])
    if len(periods) != len(turning):
        raise ValueError(f"wavelengths must be {len(turning)} integers, one a feature, got {len(periods)}")
    by_feature = dict(zip(turning, sorted(periods), strict=True))
    made = tuple(by_feature.get(i, 1) for i in range(len(table.inv_freq)))
    return Frequencies(
        inv_freq=tuple(math.tau / p if f else 0.0 for p, f in zip(made, table.inv_freq, strict=True)),
        attention_factor=table.attention_factor,
        periods=made,
    )


def _outwards(wavelength: float) -> Iterator[int]:
    """Integers from 1 on, the nearest first."""
    low = math.floor(wavelength)
    for step in count():
        pair = sorted((low - step, low + 1 + step), key=lambda p: abs(p - wavelength))
        yield from (p for p in pair if p >= 1)
