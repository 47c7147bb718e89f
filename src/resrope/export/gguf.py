"""Put a table of rotary frequencies into an existing GGUF file, for llama.cpp.

What llama.cpp does is read from, and was run with, its source in llama-cpp-python 0.3.36. It divides the
angle of feature j by factor j of the tensor rope_freqs.weight, scales cos and sin by
rope.scaling.attn_factor, and does both without any rope.scaling.type: on SmolLM2 in float32 its logits are
within 1.5·10⁻⁴ of transformers' with the same table (KL divergence 4·10⁻¹¹). A context shift applies that
scale once more to the keys it moves; ``fold`` avoids that.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from resrope.export import gguf_file as file
from resrope.export import gguf_rows as rows
from resrope.models.gguf import FACTORS, PROVENANCE, Metadata, float32_powers, model_rope, open_gguf
from resrope.spec import Frequencies, check

_ONE = ("rope_freqs.weight",)
_SHORT_AND_LONG = ("rope_factors_short.weight", "rope_factors_long.weight")
# The tensors from which each architecture takes its factors, found in llama.cpp's loaders and graphs; each
# was run on a random file, where a table of another rope_theta gave what that rope_theta itself gives.
_ONE_NAMES = "llama mistral3 deci minicpm granite granitemoe granitehybrid arcee exaone apertus"
LOADED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_ONE_NAMES.split(), _ONE),
    **dict.fromkeys(("phi3", "phimoe"), _SHORT_AND_LONG),
}
_REFUSED = {
    "falcon-h1": "llama.cpp loads rope_freqs.weight for falcon-h1 but rotates without it",
    "pangu-embedded": "llama.cpp rotates only the queries of pangu-embedded by rope_freqs.weight",
    "llama4": "llama4 rotates only within chunks of 8192 tokens, where a longer table has no effect",
    "gemma3": "gemma3 has a table for each layer type, llama.cpp one rope_freqs.weight",
    "gemma3n": "gemma3n has a table for each layer type, llama.cpp one rope_freqs.weight",
}
# These differ from arch llama by the order of the q and k rows alone.
_AS_LLAMA = ("qwen2",)
_DROPPED = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
_ATTN_FACTOR = "rope.scaling.attn_factor"
_ORIGINAL = "rope.scaling.original_context_length"


def write_gguf(
    source: Path,
    out: Path,
    *,
    table: Frequencies,
    length: int,
    provenance: Mapping[str, Any],
    fold: bool = False,
) -> None:
    """Copy a GGUF file, with ``table`` in place of the RoPE it had.

    length: the new context length in tokens. provenance: JSON types, kept under resrope.provenance.
    fold: multiply the queries' projection by attention_factor² and leave attn_factor out; float tensors
    only. Everything else is copied byte by byte, in its order; architecture qwen2 becomes llama, which
    computes the same from q and k rows in another order (exact for quantised rows as well).

    Raises ValueError when ``out`` exists, ``source`` is no GGUF file, its architecture has no place for
    a table, or the sizes differ; OSError when the disk is too full. Nothing is left behind then.
    """
    file.check_new(out)
    if not source.is_file():
        raise ValueError(f"{source}: no such file; give a .gguf file")
    try:
        reader = open_gguf(source)
        fields, tensors = _extended(source, reader, table, length, provenance, fold)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    version = int(reader.fields["GGUF.version"].contents())
    file.write_file(out, fields, tensors, version=version, alignment=int(reader.alignment))


def _extended(
    source: Path, reader: Any, table: Frequencies, length: int, provenance: Mapping[str, Any], fold: bool
) -> tuple[dict[str, bytes], list[file.Tensor]]:
    data = Metadata(reader)
    theta = _checked_theta(reader, data, table)
    old, new = data.architecture, "llama" if data.architecture in _AS_LLAMA else data.architecture
    fold = fold and table.attention_factor != 1
    own = rope_fields(new, table, length=length, provenance=provenance, fold=fold)
    fields = {**_kept_fields(source, reader, data, new), **own}
    if f"{new}.{_ATTN_FACTOR}" not in own:
        fields.pop(f"{new}.{_ATTN_FACTOR}", None)
    kept = [_copy(source, t) for t in reader.tensors if t.name not in FACTORS]
    change = _row_change(data, reader, table, permute=old != new, fold=fold)
    if change is not None:
        kept = [rows.changed(tensor, change) for tensor in kept]
    return fields, [*kept, *factor_tensors(new, table, theta)]


def check_architecture(architecture: str) -> None:
    """Raise ValueError, with the reason, when llama.cpp would not rotate by a table in such a file."""
    if architecture in LOADED or architecture in _AS_LLAMA:
        return
    reason = _REFUSED.get(
        architecture,
        f"llama.cpp has no rope_freqs.weight for architecture {architecture}: the file would not load",
    )
    raise ValueError(f"{reason}; it works for {', '.join((*LOADED, *_AS_LLAMA))}")


def _checked_theta(reader: Any, data: Metadata, table: Frequencies) -> float:
    """The file's rope_theta, when the table fits the file."""
    if reader.byte_order == "S":
        raise ValueError("a GGUF file of the other byte order; convert it to little-endian first")
    check_architecture(data.architecture)
    rope = model_rope(data)
    if set(rope.specs) != {"default"}:
        raise ValueError(f"one table cannot serve {' and '.join(rope.specs)}, which have their own")
    if data.architecture.startswith("granite") and data.get("rope.scaling.finetuned") is False:
        raise ValueError("rope.scaling.finetuned is false: these layers do not rotate, a table has no effect")
    spec = rope.specs["default"]
    check_size(table, spec.rotary_dim)
    return spec.rope_theta


def check_size(table: Frequencies, rotary_dim: int) -> None:
    """Raise ValueError unless ``table`` holds rotary_dim/2 frequencies, all of them above 0."""
    if len(table.inv_freq) != rotary_dim // 2:
        raise ValueError(
            f"the table must hold rotary_dim/2 = {rotary_dim // 2} frequencies, got {len(table.inv_freq)}"
        )
    if min(table.inv_freq) <= 0:
        raise ValueError(
            "a GGUF file takes frequencies > 0 alone, but some features of the table stand still"
        )


def rope_fields(
    arch: str, table: Frequencies, *, length: int, provenance: Mapping[str, Any], fold: bool
) -> dict[str, bytes]:
    """The pairs of metadata that go with a table: key to pair."""
    check.integer("length", length, 1, "tokens", maximum=2**31 - 1)
    fields = {f"{arch}.context_length": file.uint32(f"{arch}.context_length", length)}
    if table.attention_factor != 1 and not fold:
        key = f"{arch}.{_ATTN_FACTOR}"
        fields[key] = file.float32(key, table.attention_factor)
    return {**fields, PROVENANCE: file.string(PROVENANCE, json.dumps(dict(provenance)))}


def factor_tensors(arch: str, table: Frequencies, rope_theta: float) -> list[file.Tensor]:
    """The tensors of factors that llama.cpp loads for ``arch``."""
    data = struct.pack(f"<{len(table.inv_freq)}f", *rope_factors(table, rope_theta))
    shape = (len(table.inv_freq),)
    return [
        file.Tensor(name=name, shape=shape, kind=0, nbytes=len(data), chunks=partial(_once, data))
        for name in LOADED[arch]
    ]


def rope_factors(table: Frequencies, rope_theta: float) -> tuple[float, ...]:
    """Factor j: what llama.cpp has in place of θ^(−2j/d), divided by inv_freq_j.

    Its powers of a float32 step run away from θ^(−2j/d) by up to 2·10⁻⁶; these factors take that back.
    What remains is one rounding per step, without a trend: 2.3·10⁻³ rad at the most below 32768 tokens
    (θ = 10⁵, d = 64), where float32 alone, position · inv_freq, is off by 2.9·10⁻³. Backends that raise θ
    itself to each power (Metal) see the 2·10⁻⁶ instead. Raises ValueError beyond float32.
    """
    powers = float32_powers(rope_theta, 2 * len(table.inv_freq))
    factors = tuple(power / f for power, f in zip(powers, table.inv_freq, strict=True))
    if not 1e-37 < min(factors) <= max(factors) < 1e38:
        raise ValueError(f"the table's frequencies are too far from rope_theta {rope_theta:g} for float32")
    return factors


def _once(data: bytes) -> Iterator[bytes]:
    yield data


def _kept_fields(source: Path, reader: Any, data: Metadata, arch: str) -> dict[str, bytes]:
    """The pairs that stay, as bytes; the architecture's own under its new name."""
    old, kept = data.architecture, {}
    dropped = {f"{old}.{key}" for key in _DROPPED}
    # mistral3 scales its queries by position beyond this length; elsewhere only YaRN itself reads it.
    if not (old == "mistral3" and data.get("attention.temperature_scale")):
        dropped.add(f"{old}.{_ORIGINAL}")
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", f"{old}.rope.scaling.yarn_")) or key in dropped:
            continue
        pair = b"".join(file.copied(source, field.offset, sum(int(part.nbytes) for part in field.parts)))
        name = re.sub(rf"^{re.escape(old)}\.", f"{arch}.", key)
        kept[name] = file.renamed(pair, name)
    if arch != old:
        kept["general.architecture"] = file.string("general.architecture", arch)
    return kept


def _copy(source: Path, tensor: Any) -> file.Tensor:
    nbytes = int(tensor.n_bytes)
    return file.Tensor(
        name=tensor.name,
        shape=tuple(int(n) for n in tensor.shape),
        kind=int(tensor.tensor_type),
        nbytes=nbytes,
        chunks=partial(file.copied, source, int(tensor.data_offset), nbytes),
    )


def _row_change(
    data: Metadata, reader: Any, table: Frequencies, *, permute: bool, fold: bool
) -> rows.Change | None:
    if not permute and not fold:
        return None
    heads, kv_heads = data.get("attention.head_count"), data.get("attention.head_count_kv")
    for name, value in (("head_count", heads), ("head_count_kv", kv_heads)):
        if value is not None or name == "head_count":
            check.integer(
                f"attention.{name}", value, 1, "heads, the same in all layers, to change their rows"
            )
    head_dim = data.get("attention.key_length") or data.get("embedding_length") // heads
    rotary_dim = 2 * len(table.inv_freq)
    names = {t.name: int(t.tensor_type) for t in reader.tensors}
    if fold:
        _check_foldable(names)
    if permute and rotary_dim != head_dim:
        raise ValueError(f"architecture llama rotates whole heads, got {rotary_dim} of {head_dim} dimensions")
    return rows.Change(
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        permute=permute,
        query_scale=table.attention_factor**2 if fold else 1.0,
    )


def _check_foldable(kinds: Mapping[str, int]) -> None:
    if any(".attn_q_norm." in name for name in kinds):
        raise ValueError("fold cannot work where queries are normalised; leave it out to write attn_factor")
    for name, kind in kinds.items():
        if rows.part(name) in ("q", "qkv") and kind not in rows.FLOATS:
            raise ValueError(
                f"fold needs float tensors, {name} is quantised; leave it out to write attn_factor instead"
            )
