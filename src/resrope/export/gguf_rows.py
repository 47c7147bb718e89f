"""Rows of the projections of queries and keys in GGUF tensors: reordered, or scaled.

A row of a quantised matrix is a whole number of quantisation blocks, so that reordering rows is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from resrope.export.gguf_file import Tensor

# Numbers of GGMLQuantizationType.
F32, F16, BF16 = 0, 1, 30
FLOATS = (F32, F16, BF16)
_PROJECTION = re.compile(r"blk\.\d+\.attn_(q|k|qkv)\.(weight|bias)")
Rows = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What to do with the rows of a model's q and k projections.

    permute: from the half layout, which rotates (i, i + d/2), to llama's, which rotates (2i, 2i + 1).
    query_scale: multiplies the rows of queries that are rotated, the first rotary_dim of each head.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    permute: bool
    query_scale: float = 1.0


def part(name: str) -> str | None:
    """q, k or qkv for a tensor whose rows are queries, keys or those and values; None for others."""
    match = _PROJECTION.fullmatch(name)
    return None if match is None else match[1]


def changed(tensor: Tensor, change: Change) -> Tensor:
    """``tensor`` with its rows changed when its turn to be written comes; others as they are.

    Raises ValueError for a quantised bias, which has no rows.
    """
    which = part(tensor.name)
    if which is not None and len(tensor.shape) == 1 and tensor.kind not in FLOATS:
        raise ValueError(f"{tensor.name} must be a float tensor to change its rows, it is quantised")
    return tensor if which is None else replace(tensor, chunks=partial(_chunks, tensor, change, which))


def order(change: Change, which: str, count: int) -> NDArray[np.intp]:
    """Where each of the ``count`` rows of q, k or qkv comes from."""
    heads = {"q": change.heads, "k": change.kv_heads, "qkv": change.heads + change.kv_heads}[which]
    found = np.arange(count)
    if change.permute:
        rotated = heads * change.head_dim
        found[:rotated] = found[:rotated].reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return found


def scaled(change: Change, which: str, count: int) -> Mask:
    """Which of the ``count`` rows of q, k or qkv are multiplied by query_scale."""
    row = np.arange(count)
    within = (row < change.heads * change.head_dim) & (row % change.head_dim < change.rotary_dim)
    return within & (which != "k" and change.query_scale != 1)


def _chunks(tensor: Tensor, change: Change, which: str) -> Iterator[bytes]:
    count = tensor.shape[-1]
    data = np.frombuffer(b"".join(tensor.chunks()), dtype=np.uint8).reshape(count, -1)
    chosen = scaled(change, which, count)
    if chosen.any():
        data = data.copy()
        data[chosen] = scale_rows(data[chosen], tensor.kind, change.query_scale)
    yield data[order(change, which, count)].tobytes()


def scale_rows(data: Rows, kind: int, scale: float) -> Rows:
    """Rows of a float type times ``scale``, rounded once to that type."""
    return as_kind((as_float32(data, kind) * np.float64(scale)).astype(np.float32), kind)


def as_float32(data: Rows, kind: int) -> NDArray[np.float32]:
    """The numbers that rows of bytes of a float type stand for."""
    from gguf import GGMLQuantizationType, quants

    found: NDArray[np.float32] = quants.dequantize(data, GGMLQuantizationType(kind))
    return found


def as_kind(data: NDArray[np.float32], kind: int) -> Rows:
    """The bytes of ``data`` rounded to a float type; exact for numbers that came from it."""
    from gguf import GGMLQuantizationType, quants

    found: Rows = quants.quantize(data, GGMLQuantizationType(kind)).view(np.uint8)
    return found
