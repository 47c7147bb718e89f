"""What transformers 5 makes of a config, compared with 5.23 itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resrope.models import defaults
from resrope.models.engines.guard import FIXED, fixed, guarded
from resrope.models.engines.known import TRANSFORMERS_5
from resrope.models.engines.reading import (
    STOCK_TYPES,
    Reading,
    layers_of,
    model_type,
    names,
    nested,
    parameters,
    reading,
    refused,
    rope_types,
    seen,
    spelled_type,
    text_part,
)

ENGINE = "transformers-5"
_NAME = "transformers 5"

# Their configs in version 5 keep rope_parameters by layer type and drop a flat mapping.
BY_LAYER = names("gemma3 gemma3n modernbert modernbert-decoder olmo3 step3p5 t5gemma2")
# Those of BY_LAYER whose sliding layers take the scaling too.
_SCALED_EVERYWHERE = frozenset({"modernbert", "modernbert-decoder"})
# Newer ones fail on a flat mapping instead.
_ONLY_NESTED = frozenset({"gemma4", "gemma4_unified"})
# head_dim is null in these configs unless given, and the formulas of these types then fail on it.
_NEED_HEAD_DIM = names("hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl minimax ministral mixtral")
_USE_HEAD_DIM = ("dynamic", "yarn", "longrope")
_NEOX_SHARE = {"gpt_neox": 0.25, "gpt_neox_japanese": 1.0}
NEOX = frozenset(_NEOX_SHARE)
PHI3 = frozenset({"phi3", "phi4_multimodal"})
_PHI3_LENGTH = 4096
MROPE = names("qwen2_vl qwen2_5_vl qwen2_5_omni")
_PLAIN_ONLY = frozenset({"recurrent_gemma"})
_GPT_OSS_THETA = 150_000.0
# What these classes rotate with where a config gives no rope parameters at all; gpt_oss reads rope_theta.
_BY_CLASS: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "apertus": {
        "rope_type": "llama3",
        "rope_theta": 12_000_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "cwm": {
        "rope_type": "llama3",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "ministral3": {
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16384,
    },
}


@guarded(ENGINE, _NAME, TRANSFORMERS_5 | FIXED)
def read(config: Mapping[str, Any]) -> Reading:
    """What transformers 5.23 rotates a model of ``config`` with."""
    text = text_part(config)
    if model_type(text) in FIXED:
        return fixed(ENGINE, _NAME, config)
    given, ignored = version_5_parameters(text)
    refusal = _refusal(text, given)
    if refusal is not None:
        return refused(ENGINE, refusal)
    return reading(ENGINE, seen(text, given), ignored)


def version_5_parameters(text: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The rope parameters that transformers 5 has once the config is built, and what got lost.

    vLLM, SGLang and llama.cpp's converter build this config first.
    """
    new, old = parameters(text, "rope_parameters"), parameters(text, "rope_scaling")
    kind = model_type(text)
    if kind in BY_LAYER:
        given, ignored = _by_layer(text, new, old)
    else:
        given, ignored = (old or new), []
        if old and new and _without_base(seen(text, old)) != _without_base(seen(text, new)):
            ignored = ["transformers 5 takes rope_scaling and drops rope_parameters where both are given."]
    if not given and kind in _BY_CLASS:
        given = {"rope_theta": text.get("rope_theta", _GPT_OSS_THETA), **_BY_CLASS[kind]}
        ignored = [
            f"transformers 5 scales {kind} models by {given['rope_type']} where a config gives no scaling."
        ]
    if kind in NEOX:
        given, lost = _neox(text, given)
        ignored += lost
    if kind in PHI3:
        given, lost = _phi3(text, given)
        ignored += lost
    if kind == "phimoe" and given.get("short_mscale"):
        given = {**given, "attention_factor": given["short_mscale"]}
    if kind in MROPE and spelled_type(given) == "mrope":
        given = {**given, "rope_type": "default"}
    for part in nested(given).values():
        # It looks for truncate beside the layer types, not inside them.
        if part.get("truncate") is False:
            ignored.append("transformers 5 does not read truncate inside rope_parameters by layer type.")
    return {k: _truncated(v) for k, v in given.items()}, ignored


def _without_base(view: Mapping[str, Any]) -> dict[str, Any]:
    skipped = ("rope_theta", "partial_rotary_factor")
    return {k: v for k, v in view["rope_parameters"].items() if k not in skipped}


def _truncated(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "truncate"} if isinstance(value, Mapping) else value


def _by_layer(
    text: Mapping[str, Any], new: dict[str, Any], old: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    kind = model_type(text)
    layers, ignored = nested(new), []
    if new and not layers:
        ignored.append(
            f"transformers 5 keeps the rope parameters of {kind} models by layer type and drops a flat "
            "rope_parameters without a word."
        )
    if old and new and not layers:
        old = {}
    full = {"rope_type": "default", **layers.get("full_attention", {})}
    sliding = {"rope_type": "default", **layers.get("sliding_attention", {})}
    if spelled_type(old) != "default" and "rope_type" not in old and full["rope_type"] == "default":
        ignored.append(
            f'transformers 5 reads "rope_type", not "type", in the rope_scaling of {kind} models: no scaling.'
        )
    full = {**full, **old}
    if kind in _SCALED_EVERYWHERE:
        sliding = {**sliding, **old}
    wide, local = _layer_thetas(text, kind)
    full.setdefault("rope_theta", wide)
    if kind == "olmo3" and "rope_theta" not in sliding and wide != local:
        ignored.append(
            f"transformers 5 gives sliding layers of olmo3 models base {local:g}, whatever rope_theta says."
        )
    sliding.setdefault("rope_theta", local)
    return {"full_attention": full, "sliding_attention": sliding}, ignored


def _layer_thetas(text: Mapping[str, Any], kind: str) -> tuple[Any, Any]:
    wide, local = defaults.LAYER_THETA.get(text["model_type"], (10_000.0, None))
    if kind in _SCALED_EVERYWHERE:
        return text.get("global_rope_theta", wide), text.get("local_rope_theta", local)
    # olmo3's sliding layers fall back to the class's base, whatever rope_theta says.
    return text.get("rope_theta", wide), text.get("rope_local_base_freq", wide if local is None else local)


def _neox(text: Mapping[str, Any], given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names of their own, and no others."""
    used = {
        "rope_theta": text.get("rotary_emb_base", 10_000.0),
        "partial_rotary_factor": text.get("rotary_pct", _NEOX_SHARE[model_type(text)]),
    }
    lost = [f"{k} {text[k]:g}" for k in used if k in text and k not in given and text[k] != used[k]]
    sentence = (
        f"transformers 5 reads rotary_emb_base and rotary_pct of {model_type(text)}, not {', '.join(lost)}."
    )
    return {**used, **given}, [sentence] if lost else []


def _phi3(text: Mapping[str, Any], given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    if spelled_type(given) == "default":
        return given, []
    length = text.get("original_max_position_embeddings", _PHI3_LENGTH)
    inner = given.get("original_max_position_embeddings", length)
    lost = (
        [f"transformers 5 reads original_max_position_embeddings of phi3 beside rope_scaling: {length}."]
        if inner != length
        else []
    )
    spelled = "longrope" if spelled_type(given) in ("su", "yarn") else spelled_type(given)
    return {**given, "rope_type": spelled, "original_max_position_embeddings": length}, lost


def _refusal(text: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    kind = model_type(text)
    types = rope_types(given)
    scaled = [t for t in types if t != "default"]
    for unknown in (t for t in types if t not in STOCK_TYPES):
        return unknown_type("transformers 5", unknown)
    flat = (
        kind in _SCALED_EVERYWHERE
        and parameters(text, "rope_parameters")
        and not nested(text["rope_parameters"])
    )
    if flat or (kind in _ONLY_NESTED and given and not nested(given)):
        return f"transformers 5 needs the rope parameters of {kind} models by layer type, got flat ones"
    if kind in _PLAIN_ONLY and scaled:
        return f"transformers 5 has no rope scaling for {kind} models, got {scaled[0]}"
    if kind in PHI3 and any(t != "longrope" for t in scaled):
        return f"transformers 5 takes only longrope for {kind} models, got {scaled[0]}"
    if kind == "phimoe" and scaled and not (given.get("short_mscale") and given.get("long_mscale")):
        return "transformers 5 needs short_mscale and long_mscale for phimoe models"
    if any("factor" not in p and spelled_type(p) in ("linear", "dynamic", "yarn") for p in layers_of(given)):
        return f"transformers 5 needs factor with {scaled[0]}"
    new = parameters(text, "rope_parameters")
    if kind in BY_LAYER and new and "rope_scaling" in text and "full_attention" not in new:
        return f"transformers 5 fails on rope_scaling beside flat rope_parameters in {kind} models"
    return missing_head_dim("transformers 5", _NEED_HEAD_DIM, text, types)


def unknown_type(engine: str, rope_type: Any) -> str:
    """Why an engine refuses a rope type it has no formula for."""
    hint = "; registered types work only in a process that calls resrope.register()"
    ours = isinstance(rope_type, str) and (rope_type.startswith("resonance") or rope_type == "ntk")
    return f"{engine} does not know rope_type {rope_type!r}{hint if ours else ''}"


def missing_head_dim(
    engine: str, needing: frozenset[str], text: Mapping[str, Any], types: list[Any]
) -> str | None:
    """Why the models in ``needing`` fail on a config without head_dim; None where nothing is missing."""
    kind = model_type(text)
    if kind in needing and text.get("head_dim") is None and any(t in _USE_HEAD_DIM for t in types):
        return f"{engine} needs an explicit head_dim in the config of a {kind} model with rope scaling"
    return None


def scales(given: Mapping[str, Any]) -> bool:
    """Whether any layer type has another rope type than default."""
    return any(t != "default" for t in rope_types(given))
