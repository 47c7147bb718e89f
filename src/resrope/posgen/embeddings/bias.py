"""Embeddings that are added to the scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resrope.posgen.positions import PositionEmbedding, Sizes


def _distances(positions: Tensor) -> Tensor:
    """[seq, seq]: from every query back to every key; 0 for keys behind it, which no query sees."""
    return (positions[:, None] - positions[None]).clamp_min(0)


class ALiBi(PositionEmbedding):
    """A penalty in proportion to the distance (arXiv 2108.12409), its slopes a geometric series from
    2^(−8/n)."""

    def bias(self, positions: Tensor) -> Tensor:
        """[n_heads, seq, seq]: head h of n, counted from 1, falls by 2^(−8h/n) a token."""
        n = self.sizes.n_heads
        slopes = 2.0 ** (-8.0 / n * torch.arange(1, n + 1))
        return -slopes[:, None, None] * _distances(positions)


class T5Bias(PositionEmbedding):
    """T5's relative bias (arXiv 1910.10683): a trained number for each of 32 distances, the same in all
    layers.

    Half of them are exact, the others cover logarithmically more up to 128 tokens; the last one all beyond.
    """

    buckets, farthest = 32, 128

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.table = nn.Parameter(torch.randn(self.buckets, sizes.n_heads) * sizes.d_model**-0.5)

    def bias(self, positions: Tensor) -> Tensor:
        """[n_heads, seq, seq]."""
        distance, exact = _distances(positions), self.buckets // 2
        steps = (distance.clamp_min(exact) / exact).log() / math.log(self.farthest / exact)
        coarse = (exact + (steps * (self.buckets - exact)).long()).clamp_max(self.buckets - 1)
        bucket = torch.where(distance < exact, distance, coarse)
        return F.embedding(bucket, self.table).permute(2, 0, 1)


class Fire(PositionEmbedding):
    """FIRE (arXiv 2310.04418): a trained function of the distance over the query's own position, shared by
    all layers.

    b(i, j) = f(log(c·(i−j) + 1) / log(c·max(i, L) + 1)), f a perceptron of 32 hidden units; c and L are
    trained as well, as their absolute values, and L as a multiple of the training length: a step moves a
    parameter by as much as the learning rate, which of a number of tokens would be nothing.
    """

    hidden = 32

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.function = nn.Sequential(
            nn.Linear(1, self.hidden), nn.ReLU(), nn.Linear(self.hidden, sizes.n_heads)
        )
        self.c = nn.Parameter(torch.tensor(0.1))
        self.reach = nn.Parameter(torch.tensor(1.0))

    def bias(self, positions: Tensor) -> Tensor:
        """[n_heads, seq, seq]."""
        c, threshold = self.c.abs() + 1e-6, (self.reach * self.sizes.train_length).abs()
        query = torch.maximum(positions.float(), threshold)
        ratio = (c * _distances(positions) + 1).log() / (c * query + 1).log()[:, None]
        bias: Tensor = self.function(ratio[..., None])
        return bias.permute(2, 0, 1)
