"""Which features a training length covers, and when their phases repeat together."""

from __future__ import annotations

import math

from resrope.spec import Frequencies
from resrope.spec.check import integer


def is_pre_critical(table: Frequencies, train_length: int) -> tuple[bool, ...]:
    """Per feature: does it turn fully within training, λ_j < train_length (Section 3.2)?"""
    integer("train_length", train_length, 1, "tokens seen in training")
    return tuple(w < train_length for w in table.wavelengths)


def critical_dimension(table: Frequencies, train_length: int) -> int:
    """The first feature c whose wavelength is at least ``train_length`` tokens (Section 3.2).

    Features below c are pre-critical. Equals the number of features when all are. LLaMA-2 (head_dim
    128, rope_theta 10000, length 4096): 46.
    """
    flags = is_pre_critical(table, train_length)
    return next((j for j, pre in enumerate(flags) if not pre), len(flags))


def period_lcm(table: Frequencies, train_length: int) -> int | None:
    """Tokens after which all pre-critical features repeat together; None without integer wavelengths.

    LLaMA-2's resonant table: 7.058e51 (the paper: greater than 7e51).
    """
    if table.periods is None:
        return None
    flags = is_pre_critical(table, train_length)
    return math.lcm(*(p for p, pre in zip(table.periods, flags, strict=True) if pre))
