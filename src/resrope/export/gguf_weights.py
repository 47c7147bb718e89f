"""The weights of a folder, from safetensors to the bytes of GGUF tensors, some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from resrope.export import gguf_rows as rows
from resrope.export.weights import Place

KINDS = {"F32": rows.F32, "F16": rows.F16, "BF16": rows.BF16}
_PIECE = 1 << 23  # numbers held in memory at once


def stream(place: Place, kind: int, change: rows.Change, name: str) -> Iterator[bytes]:
    """The bytes of a weight as GGML type ``kind``, under the GGUF name ``name``, its rows changed.

    Pieces hold whole heads, within which rows are reordered. Raises ValueError when a number is too
    large for ``kind``.
    """
    part, total = rows.part(name), place.shape[0]
    source, scaled = np.arange(total), np.zeros(total, dtype=bool)
    if part is not None:
        source, scaled = rows.order(change, part, total), rows.scaled(change, part, total)
    width = math.prod(place.shape[1:])
    step = max(1, _PIECE // width // change.head_dim) * change.head_dim
    with place.shard.open("rb") as file:
        file.seek(place.start)
        for start in range(0, total, step):
            piece = slice(start, min(start + step, total))
            raw = file.read((piece.stop - start) * (place.end - place.start) // total)
            found = np.frombuffer(raw, dtype=np.uint8).reshape(piece.stop - start, -1)
            data = _as_kind(found, KINDS[place.dtype], kind, scaled[piece], change.query_scale)
            if data is None:
                raise ValueError(
                    f"{place.shard}: {name} has numbers beyond float16; choose dtype bf16 or f32"
                )
            yield data[source[piece] - start].tobytes()


def _as_kind(data: rows.Rows, given: int, kind: int, scaled: rows.Mask, scale: float) -> rows.Rows | None:
    """Rows in type ``kind``, those that are ``scaled`` times ``scale``, rounded once; None if too large."""
    if given == kind and not scaled.any():
        return data
    numbers = rows.as_float32(data, given).astype(np.float64)
    numbers[scaled] *= scale
    # From here on float16 rounds to infinity.
    if kind == rows.F16 and np.abs(numbers).max() >= 65520:
        return None
    return rows.as_kind(numbers.astype(np.float32), kind)
