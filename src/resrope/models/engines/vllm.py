"""What vLLM makes of a config, from the source of 0.33.0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resrope.models.engines import transformers
from resrope.models.engines.guard import guarded
from resrope.models.engines.known import VLLM, VLLM_THROUGH_TRANSFORMERS
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
    without_scaling,
)
from resrope.models.engines.transformers import version_5_parameters

ENGINE = "vllm"
_NAME = "vLLM"
# These models rotate pairs of neighbours; vLLM's longrope rotates halves of the head.
PAIRED = names(
    "cohere cohere2 cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 ernie4_5_moe glm4 glm_moe_dsa gptj"
)
# Told so after the rotation is built, which the longrope class does not look at.
_PAIRED_UNHEARD = frozenset({"ernie4_5"})
_DEEPSEEK = names("deepseek_v2 deepseek_v3 deepseek_v32 glm_moe_dsa")


@guarded(ENGINE, _NAME, VLLM)
def read(config: Mapping[str, Any]) -> Reading:
    """What vLLM rotates a model of ``config`` with; it starts from the config that transformers 5 builds."""
    text = renamed(text_part(config))
    if model_type(text) in VLLM_THROUGH_TRANSFORMERS:
        found = transformers.read(text)
        ignored = [_through(s) for s in found.ignored]
        return replace(found, engine=ENGINE, ignored=tuple(ignored))
    given, ignored = version_5_parameters(text)
    ignored = [_through(s) for s in ignored]
    refusal = _refusal(text, given)
    if refusal is not None:
        return refused(ENGINE, refusal)
    made, lost = adapted(given, lambda part: _adapted(text, part))
    return reading(ENGINE, seen(text, made), [*ignored, *lost])


def _through(sentence: str) -> str:
    return sentence.replace("transformers 5", f"{_NAME}, as transformers 5,")


def renamed(text: dict[str, Any]) -> dict[str, Any]:
    """``text`` with the old names of rope types replaced, as vLLM does before anything else."""
    out = dict(text)
    for name in ("rope_parameters", "rope_scaling"):
        given = parameters(text, name)
        old = spelled_type(given)
        if isinstance(old, str) and old in ("su", "mrope"):
            out[name] = {**given, "rope_type": "longrope" if old == "su" else "default"}
    return out


def adapted(given: Mapping[str, Any], change: Any) -> tuple[dict[str, Any], list[str]]:
    """``change`` made to the parameters of every layer type, and the sentences it returned."""
    made = {layer: change(part) for layer, part in nested(given).items()}
    if not made:
        return change(given)  # type: ignore[no-any-return]
    return {layer: part for layer, (part, _) in made.items()}, [s for _, lost in made.values() for s in lost]


def _refusal(text: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    kind, types = model_type(text), rope_types(given)
    for unknown in (t for t in types if t not in STOCK_TYPES):
        return f"{_NAME} does not know rope_type {unknown!r} as resrope does"
    if "longrope" in types and kind in PAIRED:
        return f"{_NAME}'s longrope rotates halves of a head and refuses {kind} models, which rotate pairs"
    if "longrope" in types and kind in _PAIRED_UNHEARD:
        return (
            f"{_NAME}'s longrope would rotate halves of a head where {kind} models need pairs: wrong output"
        )
    if kind in _DEEPSEEK and any(t not in ("default", "yarn") for t in types):
        return f"{_NAME} takes every scaling of a {kind} model for YaRN"
    if kind == "gpt_oss" and types != ["yarn"]:
        return f"{_NAME} takes only yarn for gpt_oss models"
    for part in layers_of(given):
        if spelled_type(part) in ("linear", "yarn", "dynamic") and part.get("factor") is None:
            return f"{_NAME} needs factor with {spelled_type(part)}"
    return None


def _adapted(text: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The parameters of one layer type with what vLLM puts in place of theirs."""
    match spelled_type(given):
        case "longrope":
            return with_mscale(_NAME, text, given)
        case "yarn":
            return _yarn(text, given)
        case "dynamic":
            return _dynamic(text, given)
        case _:
            return dict(given), []


def with_mscale(
    name: str, text: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """LongRoPE with the attention factor of vLLM and SGLang: short_mscale and long_mscale, else their ratio.

    They ignore attention_factor and factor; without the two mscales the factor is
    √(1 + ln(max/original) / ln(original)) of the two lengths. short_mscale counts here.
    """
    length = text.get("max_position_embeddings")
    original = given.get("original_max_position_embeddings", length)
    ratio = length / original if length and original else 1.0
    default = 1.0 if ratio <= 1.0 else math.sqrt(1 + math.log(ratio) / math.log(original))
    short, long = given.get("short_mscale", default), given.get("long_mscale", default)
    lost = []
    wanted = given.get("attention_factor")
    if wanted is not None and not (wanted == short == long):
        lost.append(
            f"{name} ignores attention_factor {wanted:g} of longrope and multiplies by {short:.6g}; "
            "it reads short_mscale and long_mscale."
        )
    elif short != long:
        lost.append(f"{name} multiplies long sequences by long_mscale {long:g}, short ones by {short:g}.")
    return {**given, "attention_factor": short}, lost


def _yarn(text: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    kind, wanted = model_type(text), given.get("attention_factor")
    if kind in _DEEPSEEK:
        scale, all_dims = given.get("mscale", 1.0), given.get("mscale_all_dim", 0.0)
        used = temperature(given["factor"], scale) / temperature(given["factor"], all_dims)
        lost = [f"{_NAME} ignores attention_factor {wanted:g} of {kind} models."] if wanted else []
        return {**{k: v for k, v in given.items() if k != "truncate"}, "attention_factor": used}, lost
    if kind == "gpt_oss" and wanted is not None:
        kept = {k: v for k, v in given.items() if k != "attention_factor"}
        return kept, [f"{_NAME} ignores attention_factor {wanted:g} of gpt_oss models."]
    return dict(given), []


def temperature(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention factor, 0.1 · mscale · ln(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _dynamic(text: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """One table for every length, made for max_position_embeddings: without effect unless told otherwise."""
    length = text.get("max_position_embeddings") or 1
    factor, trained = given["factor"], given.get("max_trained_positions", length)
    stretch = factor * length / trained - (factor - 1)
    fixed = with_fixed_base(text, given, stretch)
    if stretch == 1.0:
        return fixed, [
            f"{_NAME} computes dynamic NTK once, for max_position_embeddings: plain RoPE at every length."
        ]
    return fixed, [f"{_NAME} computes dynamic NTK once, for {length} tokens, and never again."]


def with_fixed_base(text: Mapping[str, Any], given: Mapping[str, Any], stretch: float) -> dict[str, Any]:
    """Dynamic NTK frozen: plain RoPE with the base that ``stretch`` gives."""
    from resrope.models.config import rope_from_config

    spec = next(iter(rope_from_config(seen(text, without_scaling(given))).specs.values()))
    base = spec.rope_theta * stretch ** (spec.rotary_dim / (spec.rotary_dim - 2))
    return {**without_scaling(given), "rope_type": "default", "rope_theta": base}
