"""Embeddings that are added to the tokens' own, and none at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resrope.posgen.positions import PositionEmbedding, Sizes


class NoPE(PositionEmbedding):
    """None (arXiv 2305.19466): the causal mask alone tells positions apart."""


class Sinusoidal(PositionEmbedding):
    """sin and cos of the position, interleaved (arXiv 1706.03762, Section 3.5)."""

    def input(self, positions: Tensor) -> Tensor:
        """[seq, d_model]: feature 2i is sin(n / 10000^(2i/d)), 2i + 1 its cosine."""
        d_model = self.sizes.d_model
        rates = 10000.0 ** -(torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
        angles = torch.outer(positions.double(), rates)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :d_model].float()


class Learned(PositionEmbedding):
    """A trained vector for every position; those beyond the training length only decay."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.table = nn.Parameter(torch.randn(sizes.test_length, sizes.d_model))

    def input(self, positions: Tensor) -> Tensor:
        """[seq, d_model]."""
        return self.table[positions]
