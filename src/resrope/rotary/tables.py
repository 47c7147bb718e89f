"""cos and sin of m·θ_j for any integer position, exact where the method is exact on paper."""

from __future__ import annotations

import torch
from torch import Tensor

from resrope.rotary.phases import Phases
from resrope.spec import Frequencies

# Angles at a time: on a CPU their float64 temporaries then stay in the cache, elsewhere memory stays small.
_CPU_BLOCK = 2**16
_DEVICE_BLOCK = 2**24


def cos_sin(
    table: Frequencies, positions: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """cos(m·θ_j) and sin(m·θ_j), computed in float32 from an exactly reduced phase, then cast.

    positions: integers (tokens) of any shape and device. Returns two tensors of shape
    [*positions.shape, rotary_dim/2] and type ``dtype``, on the positions' device, not multiplied by
    the attention factor. The error against exact arithmetic is below 3e-7 in float32 for every position
    below 2^31; for resonant tables (Algorithm 1, arXiv 2403.00071) positions m and m + kλ̃_j give the
    same bits in column j, whatever the dtype (Theorem 1). Raises ValueError on other than integers.
    """
    return cos_sin_from(Phases(table, positions.device), positions, dtype)


def cos_sin_from(phases: Phases, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``cos_sin`` for constants that are already on the device."""
    if positions.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise ValueError(f"positions must be integers (tokens), got {positions.dtype}")
    flat = positions.reshape(-1).long()
    features = phases.features
    cos = torch.empty(len(flat), features, dtype=dtype, device=flat.device)
    sin = torch.empty_like(cos)
    block_elements = _CPU_BLOCK if flat.device.type == "cpu" else _DEVICE_BLOCK
    rows = max(1, block_elements // features)
    for start in range(0, len(flat), rows):
        block = slice(start, start + rows)
        angles = phases.angles(flat[block])
        cos[block] = angles.cos()
        sin[block] = angles.sin_()
    shape = (*positions.shape, features)
    return cos.view(shape), sin.view(shape)
