"""Rotate queries and keys, in both layouts that checkpoints use."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from resrope.rotary.phases import Phases
from resrope.rotary.tables import cos_sin_from
from resrope.spec import Frequencies
from resrope.spec.check import one_of

Layout = Literal["half", "interleaved"]
LAYOUTS = ("half", "interleaved")


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout = "half") -> Tensor:
    """Rotate the pairs of ``x`` by +m·θ_j (Eq. 3), in float32 or wider.

    x: [..., seq, head_dim]; cos, sin: [seq, rotary_dim/2] or anything that broadcasts against
    [..., seq, rotary_dim/2]; dimensions beyond rotary_dim pass unchanged. layout: "half" pairs
    dimension j with j + rotary_dim/2 (Llama, GPT-NeoX), "interleaved" 2j with 2j + 1 (the paper's
    Eq. 2, GPT-J). Returns x's shape and dtype. Raises ValueError when head_dim < rotary_dim.
    """
    one_of("layout", layout, LAYOUTS)
    rotary_dim = 2 * cos.shape[-1]
    if x.shape[-1] < rotary_dim:
        raise ValueError(f"x's last dimension must be >= rotary_dim = {rotary_dim}, got {x.shape[-1]}")
    wide = torch.promote_types(x.dtype, torch.float32)
    rotated, rest = x[..., :rotary_dim].to(wide), x[..., rotary_dim:]
    if layout == "half":
        a, b = rotated.chunk(2, dim=-1)
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        a, b = rotated[..., ::2], rotated[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    out = out.to(x.dtype)
    return torch.cat((out, rest), dim=-1) if rest.shape[-1] else out


class RotaryEmbedding(nn.Module):
    """Rotary position embedding of queries and keys from a table of frequencies.

    It has no parameters and no buffers: casting the model to bfloat16 cannot round its frequencies.
    The attention factor multiplies cos and sin, hence queries and keys alike, as in transformers.
    """

    def __init__(self, table: Frequencies, layout: Layout = "half") -> None:
        super().__init__()
        one_of("layout", layout, LAYOUTS)
        self.table = table
        self.layout: Layout = layout
        self._phases: dict[torch.device, Phases] = {}

    def cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """float32 cos and sin times the attention factor, each [*positions.shape, rotary_dim/2]."""
        if positions.device not in self._phases:
            self._phases[positions.device] = Phases(self.table, positions.device)
        cos, sin = cos_sin_from(self._phases[positions.device], positions, torch.float32)
        return cos.mul_(self.table.attention_factor), sin.mul_(self.table.attention_factor)

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: [batch, heads, seq, head_dim]; positions: [seq] or [batch, seq] integers (tokens)."""
        cos, sin = self.cos_sin(positions)
        if positions.ndim == 2:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return apply_rotary(q, cos, sin, self.layout), apply_rotary(k, cos, sin, self.layout)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        kind = "resonant" if self.table.periods else "plain"
        return f"features={len(self.table.inv_freq)}, {kind}, layout={self.layout}"
