"""The weights of a Hugging Face folder: which safetensors files they are, linked, copied or patched."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The header's length is 8 bytes, little-endian; safetensors 0.8 refuses headers above this one, too.
_LARGEST_HEADER = 100_000_000
_CHUNK = 1 << 23
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

Edit = Callable[["Tensor"], "Tensor"]
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one tensor lies: its file, dtype as safetensors has it ("BF16"), shape, bytes [start, end)."""

    shard: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The safetensors files of a folder.

    shards: the files, in order. index: model.safetensors.index.json where there are several.
    """

    folder: Path
    shards: tuple[Path, ...]
    index: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards and the index."""
        return self.shards if self.index is None else (*self.shards, self.index)

    def tensors(self) -> dict[str, Place]:
        """Every tensor by name; reads the headers alone. Raises ValueError on a damaged file."""
        return {name: place for shard in self.shards for name, place in read_header(shard).items()}


def checkpoint(folder: Path) -> Checkpoint:
    """The weights in ``folder``, every header read once.

    Raises ValueError, in one line, when there are none, when the index names a file that is not there,
    when they are pickled (with the command that converts them), or when a file is damaged.
    """
    index = folder / INDEX
    if index.is_file():
        found = Checkpoint(folder=folder, shards=_indexed(index), index=index)
    elif (folder / SINGLE).is_file():
        found = Checkpoint(folder=folder, shards=(folder / SINGLE,))
    else:
        raise ValueError(_none_there(folder))
    found.tensors()
    return found


def _indexed(index: Path) -> tuple[Path, ...]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(
            f"{index}: not an index of safetensors shards (a JSON object with weight_map)"
        ) from None
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index}: a shard must be a file beside the index, got {name!r}")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index}: names the shard {name}, which is not there: complete the download")
    if not names:
        raise ValueError(f"{index}: names no shard")
    return tuple(index.parent / name for name in names)


def _none_there(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
    if not pickled:
        return f"{folder}: no weights; a Hugging Face folder holds {SINGLE} or {INDEX} with its shards"
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"a, b = {str(folder)!r}, {folder.name + '-safetensors'!r}; "
        "M.from_pretrained(a, dtype='auto').save_pretrained(b); T.from_pretrained(a).save_pretrained(b)"
    )
    found = f"{folder}: only pickled weights ({pickled[0]}), which are never opened here"
    return f'{found}; convert them: python -c "{code}"'


def read_header(shard: Path) -> dict[str, Place]:
    """The tensors of one safetensors file, without reading any. Raises ValueError on a damaged file."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"{shard}: damaged safetensors file: a header of {length} bytes in {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
        places = {
            str(name): _place(shard, entry, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{shard}: damaged safetensors file: its header cannot be read") from None
    end = max((place.end for place in places.values()), default=8 + length)
    if end != size:
        raise ValueError(f"{shard}: damaged safetensors file: {size} bytes, its header describes {end}")
    return places


def _place(shard: Path, entry: Mapping[str, Any], base: int) -> Place:
    start, end = entry["data_offsets"]
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    size = math.prod(shape) * _BYTES[dtype] if dtype in _BYTES else end - start
    if not 0 <= start <= end or end - start != size:
        raise ValueError(f"{dtype} {shape} does not fit bytes {start} to {end}")
    return Place(shard=shard, dtype=dtype, shape=shape, start=base + start, end=base + end)


def place(source: Path, target: Path, *, link: bool = False, progress: Progress | None = None) -> bool:
    """Put ``source`` at ``target``: a copy, or with ``link`` a hard link where the file system has them.

    Returns whether it is a link. progress gets the bytes of every chunk. The link is to the file itself
    where ``source`` is a symbolic link, as in the caches of hubs. Raises OSError when the disk is full.
    """
    real = source.resolve()
    if link:
        try:
            os.link(real, target)
        except OSError:
            pass  # another file system, or one without links: the copy below says what else may be wrong
        else:
            if progress is not None:
                progress(real.stat().st_size)
            return True
    _stream(real, target, progress)
    return False


def _stream(source: Path, target: Path, progress: Progress | None) -> None:
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with source.open("rb") as read, target.open("xb") as write:
            while count := read.readinto(buffer):
                write.write(buffer[:count])
                if progress is not None:
                    progress(count)
            write.flush()
            os.fsync(write.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(target)) from error


def patch(source: Path, target: Path, edits: Mapping[str, Edit], *, progress: Progress | None = None) -> None:
    """Copy a shard and rewrite just the bytes of the tensors in ``edits``, one in memory at a time.

    edits: by name, a function from the tensor to one of the same shape and dtype, so that header and
    offsets stay. Raises ValueError on a name that the shard lacks and on tensors that are not plain
    floats; OSError when the disk is full.
    """
    places = read_header(source)
    for name in edits:
        if name not in places:
            raise ValueError(f"{source}: holds no tensor {name}")
        if places[name].dtype not in FLOATS:
            accepted = ", ".join(FLOATS)
            raise ValueError(
                f"{source}: {name} must be one of {accepted} to be changed, got {places[name].dtype}"
            )
    _stream(source.resolve(), target, progress)
    with target.open("r+b") as file:
        for name, edit in edits.items():
            _rewrite(file, places[name], edit)
        file.flush()
        os.fsync(file.fileno())


def _rewrite(file: BinaryIO, at: Place, edit: Edit) -> None:
    import torch

    dtype = getattr(torch, FLOATS[at.dtype])
    raw = bytearray(at.end - at.start)
    file.seek(at.start)
    count = file.readinto(raw)  # type: ignore[attr-defined]
    assert count == len(raw)
    changed = edit(torch.frombuffer(raw, dtype=dtype).reshape(at.shape))
    assert changed.dtype == dtype
    assert tuple(changed.shape) == at.shape
    file.seek(at.start)
    file.write(changed.contiguous().view(torch.uint8).numpy().tobytes())
