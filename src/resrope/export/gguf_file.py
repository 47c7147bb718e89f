"""GGUF files that appear whole or not at all: metadata as raw pairs, then tensors streamed one by one.

The layout is that of GGUF 2 and 3 (ggml's docs/gguf.md), little-endian. Pairs travel as bytes, so that
those nobody touches stay what they were to the last bit.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from resrope.files import beside

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_BLOCK = 1 << 24  # bytes held in memory while copying
ALIGNMENT = 32  # where general.alignment says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A tensor to write.

    shape: as GGUF stores it, fastest dimension first. kind: number of its GGMLQuantizationType.
    chunks: called once, when the tensor's turn has come; yields its ``nbytes`` bytes in pieces.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    nbytes: int
    chunks: Callable[[], Iterator[bytes]]


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def uint32(key: str, value: int) -> bytes:
    """A pair whose value is an integer from 0 to 2³² − 1; ValueError for others."""
    if not 0 <= value < 2**32:
        raise ValueError(f"{key} must be an integer from 0 to {2**32 - 1}, got {value}")
    return _pair(key, _UINT32, struct.pack("<I", value))


def float32(key: str, value: float) -> bytes:
    """A pair whose value is the float32 nearest to ``value``."""
    return _pair(key, _FLOAT32, struct.pack("<f", value))


def boolean(key: str, value: bool) -> bytes:
    """A pair whose value is true or false."""
    return _pair(key, _BOOL, struct.pack("<?", value))


def string(key: str, value: str) -> bytes:
    """A pair whose value is text (UTF-8)."""
    return _pair(key, _STRING, _text(value))


def strings(key: str, values: Sequence[str]) -> bytes:
    """A pair whose value is a list of texts."""
    return _array(key, _STRING, len(values), b"".join(map(_text, values)))


def int32s(key: str, values: Sequence[int]) -> bytes:
    """A pair whose value is a list of integers."""
    return _array(key, _INT32, len(values), struct.pack(f"<{len(values)}i", *values))


def float32s(key: str, values: Sequence[float]) -> bytes:
    """A pair whose value is a list of float32."""
    return _array(key, _FLOAT32, len(values), struct.pack(f"<{len(values)}f", *values))


def _array(key: str, kind: int, count: int, items: bytes) -> bytes:
    return _pair(key, _ARRAY, struct.pack("<IQ", kind, count) + items)


def renamed(pair: bytes, key: str) -> bytes:
    """The same pair under another key."""
    (length,) = struct.unpack_from("<Q", pair)
    return _text(key) + pair[8 + length :]


def copied(path: Path, offset: int, nbytes: int) -> Iterator[bytes]:
    """``nbytes`` bytes of a file from ``offset`` on, in pieces. Raises OSError when it ends too early."""
    with path.open("rb") as file:
        file.seek(offset)
        while nbytes:
            block = file.read(min(_BLOCK, nbytes))
            if not block:
                raise OSError(errno.EIO, "The file ends in the middle of a tensor", str(path))
            nbytes -= len(block)
            yield block


def write_file(
    out: Path,
    fields: Mapping[str, bytes],
    tensors: Sequence[Tensor],
    *,
    version: int = 3,
    alignment: int = ALIGNMENT,
) -> None:
    """Write a GGUF file to a temporary name beside ``out``, then rename it.

    fields: key to pair, in the file's order. alignment: bytes, as general.alignment says if it is there.
    Raises ValueError when ``out`` exists, OSError when the disk is too full (checked before) or a write
    fails; nothing is left behind then.
    """
    check_new(out)
    head = _head(fields, tensors, version, alignment)
    _check_space(out, len(head) + sum(_padded(t.nbytes, alignment) for t in tensors))
    temporary = beside(out)
    try:
        with temporary.open("xb") as file:
            file.write(head)
            for tensor in tensors:
                _write_tensor(file, tensor, alignment)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        named = error.filename if error.filename not in (None, str(temporary)) else str(out)
        raise OSError(error.errno, error.strerror, named) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_new(out: Path) -> None:
    """Raise ValueError when ``out`` exists, FileNotFoundError when its folder does not."""
    if out.exists():
        raise ValueError(f"{out} exists already; give the name of a new file")
    if not out.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(out.parent))


def _padded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment


def _head(fields: Mapping[str, bytes], tensors: Sequence[Tensor], version: int, alignment: int) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(fields)), *fields.values()]
    parts += _infos(tensors, alignment)
    head = b"".join(parts)
    return head.ljust(_padded(len(head), alignment), b"\0")


def _infos(tensors: Iterable[Tensor], alignment: int) -> Iterator[bytes]:
    offset = 0
    for tensor in tensors:
        n = len(tensor.shape)
        yield _text(tensor.name) + struct.pack(f"<I{n}QIQ", n, *tensor.shape, tensor.kind, offset)
        offset += _padded(tensor.nbytes, alignment)


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"Too little space: {needed:,} bytes needed, {free:,} free", str(out))


def _write_tensor(file: IO[bytes], tensor: Tensor, alignment: int) -> None:
    written = 0
    for chunk in tensor.chunks():
        written += file.write(chunk)
    assert written == tensor.nbytes, (tensor.name, written, tensor.nbytes)
    file.write(b"\0" * (_padded(written, alignment) - written))
