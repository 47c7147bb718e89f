"""The attention factor multiplied into the weights that make the queries, so that cos and sin need none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from resrope.export.weights import FLOATS, Edit, Place
from resrope.models.config import innermost, rope_from_config

if TYPE_CHECKING:
    from torch import Tensor

# The names before the layers; towers for images and sound have layers and queries of their own.
_PREFIX = r"(?:|model\.|language_model\.model\.|model\.language_model\.|gpt_neox\.|transformer\.)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Queries:
    """Where an architecture's queries are made.

    modules: within a layer, the last linear map or norm before the rotation; where several match, the
    later one counts, since a norm undoes what happens before it. rows: how the first dimension of the
    linear map is divided, a key of ``_ROWS``. norm_plus_one: the norm multiplies by 1 + weight.
    """

    modules: tuple[str, ...] = (r"layers\.(\d+)\.self_attn\.q_proj",)
    rows: str = "separate"
    norm_plus_one: bool = False


_NORM = r"layers\.(\d+)\.self_attn\.q_norm"
_LAYERNORM = r"layers\.(\d+)\.self_attn\.q_layernorm(?:\.norms\.\d+)?"
_PLAIN = _Queries()
_NORMED = _Queries(modules=(*_PLAIN.modules, _NORM))
_LAYERNORMED = _Queries(modules=(*_PLAIN.modules, _LAYERNORM))
# Measured one by one against transformers 5.23 on random weights: tests/export/test_fold.py.
QUERIES: dict[str, _Queries] = {
    **dict.fromkeys(
        ("llama", "mistral", "mixtral", "qwen2", "gemma", "gemma2", "glm4", "granite", "starcoder2"), _PLAIN
    ),
    **dict.fromkeys(("smollm3", "cohere2"), _PLAIN),
    **dict.fromkeys(("qwen3", "olmo2", "olmo3", "cohere", "exaone4"), _NORMED),
    **dict.fromkeys(("phi", "stablelm"), _LAYERNORMED),
    "gemma3_text": _Queries(modules=_NORMED.modules, norm_plus_one=True),
    "phi3": _Queries(modules=(r"layers\.(\d+)\.self_attn\.qkv_proj",), rows="fused"),
    "gpt_neox": _Queries(modules=(r"layers\.(\d+)\.attention\.query_key_value",), rows="triples"),
    "falcon": _Queries(modules=(r"h\.(\d+)\.self_attention\.query_key_value",), rows="falcon"),
}


def foldable(config: Mapping[str, Any]) -> str | None:
    """Why the attention factor cannot go into this model's weights; None where it can."""
    text = innermost(config)
    model_type = str(text.get("model_type") or "unknown")
    if model_type not in QUERIES:
        return f"folding is verified for {', '.join(sorted(QUERIES))}, got {model_type}"
    if config.get("quantization_config") or text.get("quantization_config"):
        return "the weights are quantised, and a product of theirs would have to be quantised anew"
    return None


def edits(
    config: Mapping[str, Any], tensors: Mapping[str, Place], factors: Mapping[str, float]
) -> dict[str, Edit]:
    """By tensor name, what ``weights.patch`` has to do so that attention factor 1 gives the same scores.

    tensors: of the whole checkpoint. factors: the attention factor by layer type. Queries and keys
    would both have carried it, so the queries take its square: only their rotated dimensions, and only
    in layers that rotate. Products are computed in float32 and rounded once to the weight's dtype: in
    bfloat16 a relative error of up to 2⁻⁹ in each changed weight, float16 2⁻¹², float32 2⁻²⁴.
    Raises ValueError where ``foldable`` names a reason, where weights are packed, and where a layer's
    queries are not found.
    """
    reason = foldable(config)
    if reason is not None:
        raise ValueError(f"the attention factor cannot be folded into the weights: {reason}")
    text = innermost(config)
    wanted = {i: factors[kind] for i, kind in _rotating(text).items() if factors.get(kind, 1.0) != 1.0}
    found = _targets(text, tensors)
    missing = [i for i in wanted if i not in found]
    if missing:
        raise ValueError(f"the checkpoint holds no queries of layer {missing[0]} under a known name")
    out: dict[str, Edit] = {}
    for i, factor in wanted.items():
        for name in found[i]:
            _check_plain(name, tensors[name])
            out[name] = _edit(text, name, tensors[name], factor**2)
    return out


def _check_plain(name: str, at: Place) -> None:
    if at.dtype not in FLOATS:
        raise ValueError(
            "the attention factor cannot be folded into the weights: "
            f"{name} is {at.dtype}, one of {', '.join(FLOATS)} is accepted"
        )


def _targets(text: Mapping[str, Any], tensors: Iterable[str]) -> dict[int, list[str]]:
    """The tensors that make the queries, by layer: those of the last module before the rotation."""
    found: dict[int, list[str]] = {}
    names = list(tensors)
    for module in QUERIES[text["model_type"]].modules:
        pattern = re.compile(rf"{_PREFIX}{module}\.(?:weight|bias)")
        here: dict[int, list[str]] = {}
        for name in names:
            if match := pattern.fullmatch(name):
                here.setdefault(int(match[1]), []).append(name)
        found |= here
    return found


def _rotating(text: Mapping[str, Any]) -> dict[int, str]:
    """Layers that rotate, each with the layer type whose table it has ("default" where all share one)."""
    count = int(text["num_hidden_layers"])
    every = dict.fromkeys(range(count), "default")
    types = list(rope_from_config(text).specs)
    if types != ["default"]:
        return dict(enumerate(_layer_types(text, count)))
    match text["model_type"]:
        case "smollm3":
            interval = text.get("no_rope_layer_interval") or 4
            uses = text.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(count)]
            return {i: kind for i, kind in every.items() if uses[i]}
        case "cohere2" | "exaone4" if text.get("sliding_window") is not None or "sliding_window" not in text:
            sliding = [kind == "sliding_attention" for kind in _layer_types(text, count)]
            return {i: kind for i, kind in every.items() if sliding[i]}
    return every


def _layer_types(text: Mapping[str, Any], count: int) -> list[str]:
    """layer_types, or what transformers derives where a config has none: every n-th layer is full."""
    given = text.get("layer_types")
    if given is not None:
        return [str(kind) for kind in given]
    n = text.get("sliding_window_pattern") or (6 if text["model_type"] == "gemma3_text" else 4)
    if not isinstance(n, int):
        raise ValueError(f"layer_types must be given, or sliding_window_pattern as an integer, got {n!r}")
    return ["sliding_attention" if (i + 1) % n else "full_attention" for i in range(count)]


def _edit(text: Mapping[str, Any], name: str, at: Place, scale: float) -> Edit:
    spec = next(iter(rope_from_config(text).specs.values()))
    queries = QUERIES[text["model_type"]]
    normed = "norm" in name
    rows = at.shape[0] if not normed or len(at.shape) == 1 else at.shape[0] * at.shape[1]
    groups, slots, used = (rows // spec.head_dim, 1, 1) if normed else _ROWS[queries.rows](text)
    if rows != groups * slots * spec.head_dim:
        raise ValueError(f"{name} must have {groups} · {slots} · {spec.head_dim} rows, got {rows}")
    offset = 1.0 if normed and queries.norm_plus_one and name.endswith("weight") else 0.0
    shape = (groups, slots, spec.head_dim)
    return partial(_scaled, shape=shape, used=used, rotary=spec.rotary_dim, scale=scale, offset=offset)


def _heads(text: Mapping[str, Any]) -> int:
    return int(text.get("num_attention_heads") or text["n_head"])


def _separate(text: Mapping[str, Any]) -> tuple[int, int, int]:
    return _heads(text), 1, 1


def _fused(text: Mapping[str, Any]) -> tuple[int, int, int]:
    """All queries, then all keys, then all values."""
    pairs = int(text.get("num_key_value_heads") or _heads(text))
    return 1, _heads(text) + 2 * pairs, _heads(text)


def _triples(text: Mapping[str, Any]) -> tuple[int, int, int]:
    """Head by head: query, key, value."""
    return _heads(text), 3, 1


def _falcon(text: Mapping[str, Any]) -> tuple[int, int, int]:
    heads = _heads(text)
    if text.get("new_decoder_architecture"):
        # Every key head after the queries that share it.
        pairs = int(text.get("num_kv_heads") or text.get("n_head_kv") or heads)
        return pairs, heads // pairs + 2, heads // pairs
    return (1, heads + 2, heads) if text.get("multi_query", True) else (heads, 3, 1)


# Rows as (groups, slots of head_dim rows in a group, how many slots from the first are queries).
_ROWS = {"separate": _separate, "fused": _fused, "triples": _triples, "falcon": _falcon}


def _scaled(
    weight: Tensor, *, shape: tuple[int, int, int], used: int, rotary: int, scale: float, offset: float
) -> Tensor:
    """``weight`` w with the first ``rotary`` rows of every query head (offset + w) · scale − offset."""
    import torch

    out = weight.clone()
    rows = out.view(*shape, -1)[:, :used, :rotary]
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    rows.copy_((wide + offset) * scale - offset if offset else wide * scale)
    return out
