"""What transformers 4 makes of a config, compared with 4.57.6 itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resrope.models.engines.guard import FIXED, fixed, guarded
from resrope.models.engines.known import TRANSFORMERS_4
from resrope.models.engines.reading import (
    SHARES,
    STOCK_TYPES,
    Reading,
    layers_of,
    model_type,
    names,
    parameters,
    reading,
    refused,
    seen,
    spelled_type,
    text_part,
)
from resrope.models.engines.transformers import MROPE, NEOX, PHI3, missing_head_dim, scales, unknown_type

ENGINE = "transformers-4"
_NAME = "transformers 4"
_NEED_HEAD_DIM = names("hunyuan_v1_dense hunyuan_v1_moe minimax ministral mistral mixtral")
_NO_SCALING = names("modernbert nemotron")
NEED_ROPE_TYPE = names(
    "cohere cohere2 gemma3 gemma3n granite granitemoe granitemoeshared moonshine olmo3 qwen3_next"
)
_TWO_KEYS = frozenset({"olmo", "olmo2"})
_LOCAL_THETA_KEY = {
    "gemma3": "rope_local_base_freq",
    "gemma3n": "rope_local_base_freq",
    "olmo3": "rope_theta",
}
# Where the two versions' classes assume different bases.
_THETA = {
    "apertus": 12_000_000.0,
    "cohere": 10_000.0,
    "falcon_h1": 100_000.0,
    "gpt_oss": 150_000.0,
    "gpt_neox": 10_000.0,
    "gpt_neox_japanese": 10_000.0,
    "persimmon": 25_000.0,
    "qwen3_vl": 5_000_000.0,
    "qwen3_vl_moe": 5_000_000.0,
}
_LAYER_THETA = {"gemma3": (1e6, 1e4), "gemma3n": (1e6, 1e4), "olmo3": (1e4, 1e4)}
_NOT_THERE = names(
    "afmoe axk1 axk2 cohere2_moe cwm deepseek_v32 deepseek_v4 emu3_text_model ernie4_5_vl_moe eurobert "
    "exaone_moe gemma4 glm4_moe_lite glm_moe_dsa granite_swa granitemoe_swa gte hunyuan_vl jais2 laguna "
    "lfm2_moe lfm3 mellum mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl ministral3 mistral4 "
    "mllama_text_model molmo2 muse_glimmer nanochat olmo_hybrid qwen2_5_omni qwen3_5 qwen3_5_moe "
    "solar_open step3p5 t5gemma2 youtu zaya"
)


@guarded(ENGINE, _NAME, TRANSFORMERS_4 | _NOT_THERE | FIXED)
def read(config: Mapping[str, Any]) -> Reading:
    """What transformers 4.57 rotates a model of ``config`` with, from rope_theta and rope_scaling alone."""
    text = text_part(config)
    kind, given = model_type(text), parameters(text, "rope_scaling")
    if kind in FIXED:
        return fixed(ENGINE, _NAME, config)
    if kind in _NOT_THERE:
        return refused(ENGINE, f"transformers 4.57 has no {kind} models")
    refusal = _refusal(text, given)
    if refusal is not None:
        return refused(ENGINE, refusal)
    ignored = _lost(text, given)
    if kind in _NO_SCALING and scales(given):
        ignored.append(f"transformers 4 applies no rope scaling to {kind} models.")
        given = {}
    shares = {k: text[k] for k in SHARES if k in text}
    unread = ("rope_parameters", "original_max_position_embeddings", *SHARES)
    bare = {k: v for k, v in text.items() if k not in unread} | shares
    return reading(ENGINE, seen(bare, _given(text, _class_scaling(text, given))), ignored)


def _given(text: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    kind = model_type(text)
    spelled = spelled_type(given)
    spelled = "longrope" if spelled == "su" else "default" if spelled == "mrope" else spelled
    given = {**given, "rope_type": spelled}
    length = text.get("max_position_embeddings")
    if kind == "phimoe" and "short_mscale" in given:
        given["attention_factor"] = given["short_mscale"]
    if spelled == "longrope":
        outer = text.get("original_max_position_embeddings")
        # The length beside rope_scaling counts, and with it the ratio goes before the factor.
        given["original_max_position_embeddings"] = outer or length
        if outer and length:
            given["factor"] = max(1.0, length / outer)
    if kind in ("gemma3", "gemma3n", "olmo3"):
        wide, local = _LAYER_THETA[kind]
        full = {**given, "rope_theta": text.get("rope_theta", wide)}
        return {
            "full_attention": full,
            "sliding_attention": {"rope_theta": text.get(_LOCAL_THETA_KEY[kind], local)},
        }
    theta = text.get("rotary_emb_base" if kind in NEOX else "rope_theta", _THETA.get(kind))
    return given if theta is None else {**given, "rope_theta": theta}


def _class_scaling(text: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Two classes scale by default."""
    if "rope_scaling" in text or given:
        return given
    yarn = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    by_class = {
        "gpt_oss": {**yarn, "original_max_position_embeddings": 4096},
        "apertus": {**llama3, "original_max_position_embeddings": 8192},
    }
    return by_class.get(model_type(text), {})


def _lost(text: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What stands in rope_parameters alone."""
    new = parameters(text, "rope_parameters")
    lost = []
    if any("rope_theta" in p for p in layers_of(new)) and "rope_theta" not in text:
        lost.append("rope_theta")
    if scales(new) and not given:
        lost.append("the scaling")
    if any("partial_rotary_factor" in p for p in layers_of(new)) and not any(k in text for k in SHARES):
        lost.append("partial_rotary_factor")
    return [f"transformers 4 does not read rope_parameters: {', '.join(lost)} there is lost."] if lost else []


def _refusal(text: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    kind, spelled = model_type(text), spelled_type(given)
    known = spelled in STOCK_TYPES and spelled != "proportional"
    renamed = (spelled == "su" and kind in PHI3) or (spelled == "mrope" and kind in MROPE)
    if not given or kind in _NO_SCALING or (renamed and kind not in PHI3):
        return None
    if kind in PHI3:
        return _refusal_phi3(kind, given)
    if kind in NEED_ROPE_TYPE and "rope_type" not in given:
        return f'transformers 4 needs "rope_type" in the rope_scaling of {kind} models, got "type" alone'
    if kind in _TWO_KEYS and (set(given) != {"type", "factor"} or spelled not in ("linear", "dynamic")):
        return f"transformers 4 takes only type (linear or dynamic) and factor for {kind} models"
    if not known:
        return unknown_type("transformers 4", spelled)
    if kind == "phimoe" and not (given.get("short_mscale") and given.get("long_mscale")):
        return "transformers 4 needs short_mscale and long_mscale for phimoe models"
    sized = "factor" in given or "attention_factor" in given or "original_max_position_embeddings" in text
    if spelled == "longrope" and not sized:
        return "transformers 4 needs factor, or original_max_position_embeddings beside rope_scaling"
    if kind == "llama4" and spelled != "llama3":
        return f"transformers 4 takes only llama3 for llama4 models, got {spelled}"
    if spelled == "llama3" and "original_max_position_embeddings" not in given:
        return "transformers 4 needs original_max_position_embeddings with llama3"
    if spelled in ("linear", "dynamic", "yarn") and "factor" not in given:
        return f"transformers 4 needs factor with {spelled}"
    return missing_head_dim("transformers 4", _NEED_HEAD_DIM, text, [spelled])


def _refusal_phi3(kind: str, given: Mapping[str, Any]) -> str | None:
    if set(given) != {"type", "short_factor", "long_factor"}:
        extra = ", ".join(sorted(set(given) - {"type", "short_factor", "long_factor"}))
        return (
            f"transformers 4 takes exactly type, short_factor and long_factor for {kind} models, "
            f"got {extra or ', '.join(given)} besides"
        )
    if given["type"] not in ("longrope", "su", "yarn"):
        return f"transformers 4 takes only longrope for {kind} models, got {given['type']}"
    return None


def class_theta(kind: str, other: float | None) -> float | None:
    """The base that version 4's class for a model type assumes; ``other`` where both versions agree."""
    pair = _LAYER_THETA.get(kind)
    return pair[0] if pair is not None else _THETA.get(kind, other)
