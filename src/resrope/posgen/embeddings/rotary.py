"""Embeddings that turn queries and keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from resrope.posgen.positions import PositionEmbedding, Sizes
from resrope.posgen.settings import Settings
from resrope.rotary import RotaryEmbedding
from resrope.spec import Frequencies, RopeSpec, frequencies


class Rope(PositionEmbedding):
    """RoPE or a scaling of it (``Settings.spec``), in testing with another table where settings say so."""

    def __init__(self, sizes: Sizes, trained: Frequencies, tested: Frequencies) -> None:
        super().__init__(sizes)
        self.tables = {True: trained, False: tested}
        self._cos_sin = {
            training: RotaryEmbedding(table).cos_sin(torch.arange(self._longest(training)))
            for training, table in self.tables.items()
        }

    @staticmethod
    def of(settings: Settings, name: str, moved: Callable[[Frequencies], Frequencies] | None = None) -> Rope:
        """The method called ``name``, each table for the length that it meets; ``moved`` may change both."""
        # A token before the sequence takes the place of the last one, which is not read.
        trained = frequencies(settings.training_spec(name), seq_len=settings.train_length)
        tested = frequencies(settings.spec(name), seq_len=settings.test_length)
        return Rope(
            settings.sizes, *((trained, tested) if moved is None else (moved(trained), moved(tested)))
        )

    def _longest(self, training: bool) -> int:
        return self.sizes.train_length if training else self.sizes.test_length

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos + i·sin, the attention factor in them."""
        cos, sin = (table[positions] for table in self._cos_sin[self.training])
        turns = torch.complex(cos, sin)
        return turns, turns


class PRope(Rope):
    """p-RoPE (arXiv 2410.06205): the lowest of the frequencies do not turn; three quarters of them do."""

    share = 0.75

    def __init__(self, sizes: Sizes) -> None:
        plain = frequencies(_plain(sizes))
        kept = round(self.share * len(plain.inv_freq))
        inv_freq = (*plain.inv_freq[:kept], *[0.0] * (len(plain.inv_freq) - kept))
        table = Frequencies(inv_freq=inv_freq, attention_factor=1.0)
        super().__init__(sizes, table, table)


class RandomisedRope(Rope):
    """RoPE at positions drawn at random and put in order (arXiv 2305.16843), out of twice the longest length.

    In training and in testing alike.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, *[frequencies(_plain(sizes))] * 2)

    def _longest(self, training: bool) -> int:
        return 2 * self.sizes.test_length

    def positions(self, length: int, random: np.random.Generator) -> Tensor:
        """So many of all there are, each at most once, rising."""
        drawn = random.choice(self._longest(True), length, replace=False)
        return torch.from_numpy(np.sort(drawn))


class PoSE(Rope):
    """Positional skip-wise training (arXiv 2309.10400): a part of a training sequence is moved on.

    RoPE. Where the second part begins and how far it is moved are drawn at every step, so that its positions
    reach all of the testing length.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, *[frequencies(_plain(sizes))] * 2)

    def _longest(self, training: bool) -> int:
        return self.sizes.test_length

    def positions(self, length: int, random: np.random.Generator) -> Tensor:
        """Two runs with a gap in training."""
        positions = torch.arange(length)
        if self.training:
            cut, gap = random.integers(1, length), random.integers(0, self.sizes.test_length - length + 1)
            positions[int(cut) :] += int(gap)
        return positions


class XPos(Rope):
    """xPos (arXiv 2212.10554): RoPE whose features shrink in queries and grow in keys with the position.

    Feature i of d/2 by ζ_i^(n/512) and its inverse, ζ_i = (i/(d/2) + γ) / (1 + γ), γ = 0.4: a score falls
    with the distance, fastest in high frequencies.
    """

    gamma, base = 0.4, 512.0

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, *[frequencies(_plain(sizes))] * 2)
        half = sizes.head_dim // 2
        zeta = (torch.arange(half, dtype=torch.float64) / half + self.gamma) / (1 + self.gamma)
        self._log_zeta = zeta.log()

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """RoPE's turns, shorter for queries, longer for keys."""
        turns, _ = super().rotation(positions)
        # Around the middle: only differences count, and neither side may leave float32.
        n = positions.double() - positions.double().mean()
        growth = (n[:, None] / self.base * self._log_zeta).exp()
        return turns * growth.to(turns.real.dtype), turns / growth.to(turns.real.dtype)


def _plain(sizes: Sizes) -> RopeSpec:
    return RopeSpec(head_dim=sizes.head_dim, rope_theta=sizes.rope_theta)
