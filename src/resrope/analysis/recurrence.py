"""At which distances the features that turn within training nearly stand together again.

Attention sees a distance through the phases alone. A head that has learnt to look r tokens back may look
r + d back too where all phases come close to those of r: an echo. Below the training length training takes
it away, beyond nothing does. The common period of integer wavelengths (``period_lcm``) is where the return
is exact; it is near much earlier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resrope.analysis.critical import is_pre_critical
from resrope.spec import Frequencies
from resrope.spec.check import integer

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recurrence:
    """A distance in tokens, and the mean cosine of what the features turn by over it: 1 where all return."""

    distance: int
    cosine: float


def recurrence(table: Frequencies, train_length: int, length: int) -> Curve:
    """Mean over the pre-critical features of cos(d θ_j), for every distance d < length. [length]

    All 1 where no feature is pre-critical. Raises ValueError for lengths below 1.
    """
    integer("length", length, 1, "distances in tokens")
    turning = [j for j, pre in enumerate(is_pre_critical(table, train_length)) if pre]
    distance = np.arange(length)
    total = np.zeros(length)
    for j in turning:
        if table.periods is None:
            total += np.cos(distance * table.inv_freq[j])
        else:
            total += np.cos(distance % table.periods[j] * (math.tau / table.periods[j]))
    return total / len(turning) if turning else np.ones(length)


def recurrences(table: Frequencies, train_length: int, length: int, least: float = 0.0) -> list[Recurrence]:
    """The peaks of ``recurrence`` at distances that training does not reach, the highest first.

    Those from train_length to length − 1 with a cosine of ``least`` or more, higher than their neighbours.
    None where no feature is pre-critical, or where the curve has no such peak.
    """
    if not any(is_pre_critical(table, train_length)):
        return []
    curve = recurrence(table, train_length, length + 1)
    middle = curve[1:-1]
    peak = (middle >= curve[:-2]) & (middle > curve[2:]) & (middle >= least)
    distances = 1 + np.flatnonzero(peak)
    distances = distances[distances >= train_length]
    order = np.argsort(-curve[distances], kind="stable")
    return [Recurrence(distance=int(d), cosine=float(curve[d])) for d in distances[order]]
