"""Frequencies that a checkpoint has saved among its weights, against those its config gives."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

from resrope.models.config import ModelRope
from resrope.models.findings import Finding, bfloat16
from resrope.spec import frequencies

_SIZES = {"F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2)}
_HEADER = 8
_LARGEST_HEADER = 100_000_000


def buffer_findings(folder: Path, rope: ModelRope) -> Iterator[Finding]:
    """One finding for each kind of trouble with the ``inv_freq`` tensors in a folder's safetensors files.

    Reads the headers and those tensors alone. Raises ValueError on a file that is not safetensors.
    """
    found: dict[str, tuple[Finding, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, values in saved_frequencies(path):
            finding = _judged(name, values, rope)
            if finding is not None:
                first, count = found.get(finding.code, (finding, 0))
                found[finding.code] = (first, count + 1)
    for finding, count in found.values():
        more = f" ({count} such tensors)" if count > 1 else ""
        yield Finding(severity=finding.severity, code=finding.code, message=finding.message + more)


def saved_frequencies(path: Path) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Name and values of every tensor called inv_freq in a safetensors file."""
    with path.open("rb") as file:
        try:
            (size,) = struct.unpack("<Q", file.read(_HEADER))
            header = json.loads(file.read(size)) if size <= _LARGEST_HEADER else None
        except (struct.error, ValueError):
            header = None
        if not isinstance(header, dict):
            raise ValueError(f"{path}: not a safetensors file, or a damaged one")
        for name, entry in header.items():
            if name.endswith("inv_freq"):
                start, end = entry["data_offsets"]
                file.seek(_HEADER + size + start)
                yield name, _values(file.read(end - start), entry["dtype"])


def _values(data: bytes, dtype: str) -> tuple[float, ...]:
    if dtype == "BF16":
        return struct.unpack(f"<{len(data) // 2}f", _widened(data))
    if dtype not in _SIZES:
        raise ValueError(
            f"an inv_freq tensor has dtype {dtype}, one of BF16, {', '.join(_SIZES)} is accepted"
        )
    letter, size = _SIZES[dtype]
    return struct.unpack(f"<{len(data) // size}{letter}", data)


def _widened(data: bytes) -> bytes:
    """bfloat16 bytes as those of float32."""
    return b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))


def _judged(name: str, values: tuple[float, ...], rope: ModelRope) -> Finding | None:
    tables = [frequencies(spec).inv_freq for spec in rope.specs.values()]
    fitting = [table for table in tables if len(table) == len(values)]
    if any(_close(values, table, 1e-5) for table in fitting):
        return None
    if any(_close(values, tuple(bfloat16(f) for f in table), 1e-6) for table in fitting):
        return Finding(
            severity="warning",
            code="bfloat16-buffer",
            message=(
                f"the saved {name} holds frequencies rounded to bfloat16 (up to 0.4 % off): a loader that "
                "takes them instead of computing its own rotates wrongly."
            ),
        )
    return Finding(
        severity="error",
        code="other-buffer",
        message=f"the saved {name} holds other frequencies than the config gives.",
    )


def _close(values: tuple[float, ...], table: tuple[float, ...], tolerance: float) -> bool:
    return all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(values, table, strict=True))
