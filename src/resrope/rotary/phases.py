"""Integer positions to angles that float32 can hold: the phase is reduced before it is rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resrope.spec import Frequencies
from resrope.spec.phase import TURN, turns_per_token


class Phases:
    """The constants of one table on one device, and the angles m·θ_j reduced to [-π, π].

    Resonant tables: c = m mod λ̃ is an exact integer, and the angle a function of c alone, so positions
    m and m + kλ̃ give the same bits. Other tables: m times θ_j/2π in 64-bit fixed-point turns, where
    overflow drops exactly the whole turns. Either way the angle is right to the last bit of float32 for
    every position below 2^31.
    """

    def __init__(self, table: Frequencies, device: torch.device) -> None:
        self.device = device
        # Apple's GPUs and some accelerators have no float64; 64-bit integers serve there.
        self.float64 = device.type not in ("mps", "xla")
        self.resonant = table.periods is not None
        if table.periods is not None:
            turns = [(TURN + p // 2) // p for p in table.periods]
        else:
            turns = [turns_per_token(f) for f in table.inv_freq]
        self._turns = self._tensor([_signed(t) for t in turns], torch.int64)
        if table.periods is not None:
            self._set_periods(table.periods)

    def _set_periods(self, periods: tuple[int, ...]) -> None:
        half = [(p - 1) // 2 for p in periods]
        self._periods = self._tensor(periods, torch.int64)
        self._half = self._tensor(half, torch.int64)
        if self.float64:
            self._wavelength = self._periods.double()
            self._inverse = 1 / self._wavelength
            self._bias = (self._half + 0.5) * self._inverse
            self._step = math.tau / self._wavelength

    @property
    def features(self) -> int:
        """rotary_dim/2, the number of frequencies."""
        return len(self._turns)

    def _tensor(self, values: object, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def angles(self, positions: Tensor) -> Tensor:
        """[n] int64 positions to [n, rotary_dim/2] float32 angles in [-π, π]."""
        column = positions[:, None]
        if not self.float64:
            return _radians_without_float64(
                (self._residues(column) if self.resonant else column) * self._turns
            )
        if self.resonant:
            return self._residues_float64(column.double()).mul_(self._step).float()
        return (column * self._turns).double().mul_(math.tau / TURN).float()

    def _residues(self, column: Tensor) -> Tensor:
        """(m + h) mod λ̃ - h with h = ⌊(λ̃-1)/2⌋: the residue nearest 0, so that angles stay small."""
        return torch.remainder(column + self._half, self._periods).sub_(self._half)

    def _residues_float64(self, column: Tensor) -> Tensor:
        """The same, several times faster: exact, since (m + h + ½)/λ̃ is never within 2^-32 of an integer."""
        quotient = torch.addcmul(self._bias, column, self._inverse).floor_()
        return torch.addcmul(column, quotient, self._wavelength, value=-1)


def _signed(turns: int) -> int:
    """Two's complement of a 64-bit phase: a turn in [-½, ½)."""
    turns %= TURN
    return turns - TURN if turns >= TURN // 2 else turns


# 2π/2^12 split so that a 12-bit integer times the first part is exact in float32.
_COARSE = math.floor(math.tau * 2**9) / 2**21  # 12 significant bits
_FINE = math.tau / 2**12 - _COARSE


def _radians_without_float64(turns: Tensor) -> Tensor:
    """Signed 64-bit turns to float32 radians with one rounding that counts (the last addition)."""
    high = (turns >> 52).float()
    low = (turns & (2**52 - 1)).float()
    return high * _COARSE + (high * _FINE + low * (math.tau / TURN))
