"""The model under measurement: loaded once, rotating with one method after another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resrope.devices import device_of
from resrope.longtext import attention
from resrope.models import gguf
from resrope.models.apply import rope_of, rotating
from resrope.models.config import ModelRope
from resrope.models.extension import Extension, trained_length
from resrope.models.load import load
from resrope.models.source import SMOLLM2, check_there
from resrope.spec import Frequencies

# Bytes up to which a file is known by its content; more takes seconds to read.
_HASHED = 1 << 30
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A loaded model and its tokenizer. name: as it was asked for. identity: a hash that other weights,
    another dtype, attention or kind of device change."""

    name: str
    model: Any
    tokenizer: Any
    rope: ModelRope
    identity: str

    @property
    def native(self) -> int | None:
        """Tokens that the model as it is serves, by its config; None where that is silent."""
        return self.rope.max_position_embeddings or trained_length(self.rope)

    def rotating(
        self, done: Extension, tables: Mapping[str, Frequencies]
    ) -> AbstractContextManager[nn.Module]:
        """The model with ``tables``, by layer type, and exact phases; afterwards as it was."""
        return rotating(self.model, done, dict(tables))


def open_subject(
    path: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    attn: str | None = None,
    tokenizer: Any = None,
) -> Subject:
    """Load a folder, a hub id, a .gguf file or ``smollm2``, with its tokenizer.

    device: cuda or mps where there is one, else cpu. dtype: float32 on a CPU, else bfloat16 (a GGUF file is
    dequantised to it). attn: an attention implementation of transformers; left out, sdpa models on a CPU
    get ours (``resrope.longtext.attention``) where it gives their own logits, all others what transformers
    chooses.
    tokenizer: one that is loaded already. Raises ValueError or OSError.
    """
    place = device_of(device)
    kind = _dtype(dtype, place)
    options = {} if attn is None else {"attn_implementation": attn}
    model: Any = load(path, dtype=kind, exact=False, model_kwargs=options)
    model.to(place)
    if attn is None and place.type == "cpu" and model.config._attn_implementation == "sdpa":
        attention.install_where_right(model)
    used = model.config._attn_implementation
    return Subject(
        name=str(path),
        model=model.eval(),
        tokenizer=tokenizer_of(path) if tokenizer is None else tokenizer,
        rope=rope_of(model),
        identity=_hash(weights_of(path, model.config), str(kind), str(used), *_elsewhere(place)),
    )


def tokenizer_of(path: str | Path) -> Any:
    """The tokenizer of a folder, a hub id, a .gguf file or ``smollm2``. Raises ValueError without one."""
    from transformers import AutoTokenizer

    check_there(path)
    file = _file(path)
    try:
        if file is not None and file.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        return AutoTokenizer.from_pretrained(str(path))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # damaged files fail in as many ways as there are formats
        first = " ".join(str(error).split())
        raise ValueError(
            f"{path}: no tokenizer can be loaded: {type(error).__name__}: {first:.200}"
        ) from error


def _file(path: str | Path) -> Path | None:
    """Where the model lies on this machine; None for a hub id."""
    file = gguf.smollm2_path() if str(path) == SMOLLM2 else Path(path)
    return file if file.exists() else None


def _dtype(asked: str | None, device: torch.device) -> torch.dtype:
    if asked is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if asked not in _DTYPES:
        raise ValueError(f"dtype must be among {', '.join(_DTYPES)}, got {asked!r}")
    return _DTYPES[asked]


def weights_of(path: str | Path, config: Any) -> str:
    """What changes when the weights do: the content of small files, size and time of large ones, on the hub
    the commit."""
    file = _file(path)
    if file is None:
        return f"{path} {getattr(config, '_commit_hash', None)}"
    files = sorted(file.iterdir()) if file.is_dir() else [file]
    return "\n".join(fingerprint(f) for f in files if f.suffix in (".safetensors", ".gguf", ".json"))


def fingerprint(file: Path) -> str:
    """What changes when the file does: size and hash of its content, of a large file size and time."""
    size = file.stat().st_size
    if size > _HASHED:
        return f"{file.name} {size} {file.stat().st_mtime_ns}"
    with file.open("rb") as data:
        digest = hashlib.sha256()
        while block := data.read(1 << 20):
            digest.update(block)
    return f"{size} {digest.hexdigest()}"


def _elsewhere(device: torch.device) -> list[str]:
    """The kind of a device that rounds otherwise than a CPU."""
    return [] if device.type == "cpu" else [device.type]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
