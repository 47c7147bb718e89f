"""A frequency as a binary fraction of a turn: how phases stay exact at any position."""

from __future__ import annotations

from fractions import Fraction

# 2π to 60 digits: a float64 frequency times 2^64 needs about 40.
_TWO_PI = Fraction("6.28318530717958647692528676655900576839433879875021164194989")
TURN = 2**64


def turns_per_token(inv_freq: float) -> int:
    """``inv_freq`` (radians per token) in units of 2^-64 turns, rounded to nearest and reduced mod 2^64.

    The phase at position m is m times this, mod 2^64: integer arithmetic that wraps as turns do. Its
    error is below m · 2^-65 turns, 4e-10 radians at m = 2^31.
    """
    return round(Fraction(inv_freq) * TURN / _TWO_PI) % TURN
