"""What SGLang makes of a config, from the source of 0.5.23."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resrope.models.engines.guard import guarded
from resrope.models.engines.known import SGLANG
from resrope.models.engines.reading import (
    STOCK_TYPES,
    Reading,
    layers_of,
    model_type,
    names,
    nested,
    reading,
    refused,
    rope_types,
    seen,
    spelled_type,
    text_part,
    without_scaling,
)
from resrope.models.engines.transformers import version_5_parameters
from resrope.models.engines.vllm import (
    adapted,
    renamed,
    temperature,
    with_fixed_base,
    with_mscale,
)

ENGINE = "sglang"
_NAME = "SGLang"
# Their model files build the rotation without rope_scaling.
NO_SCALING = names("dbrx gemma gemma2 granitemoe mixtral muse_glimmer olmo persimmon phi stablelm starcoder2")
# Their model files ask for pairs of neighbours, which the longrope class refuses.
PAIRED = names("cohere cohere2 deepseek_v2 deepseek_v3 deepseek_v32 glm4")
_DEEPSEEK = names("deepseek_v2 deepseek_v3 deepseek_v32")


@guarded(ENGINE, _NAME, SGLANG)
def read(config: Mapping[str, Any]) -> Reading:
    """What SGLang rotates a model of ``config`` with, from the config that transformers 5 builds."""
    text = renamed(text_part(config))
    kind = model_type(text)
    given, ignored = version_5_parameters(text)
    ignored = [s.replace("transformers 5", f"{_NAME}, as transformers 5,") for s in ignored]
    scaled = [t for t in rope_types(given) if t != "default"]
    if scaled and kind in NO_SCALING:
        ignored.append(f"{_NAME} passes no rope scaling to {kind} models.")
        given = {k: without_scaling(v) for k, v in nested(given).items()} or without_scaling(given)
    refusal = _refusal(kind, given)
    if refusal is not None:
        return refused(ENGINE, refusal)
    made, lost = adapted(given, lambda part: _adapted(text, part))
    return reading(ENGINE, seen(text, made), [*ignored, *lost])


def _refusal(kind: str, given: Mapping[str, Any]) -> str | None:
    types = rope_types(given)
    for unknown in (t for t in types if t not in STOCK_TYPES):
        return f"{_NAME} does not know rope_type {unknown!r}"
    if "longrope" in types and kind in PAIRED:
        return f"{_NAME}'s longrope rotates halves of a head and refuses {kind} models, which rotate pairs"
    if kind in _DEEPSEEK and any(t not in ("default", "yarn") for t in types):
        return f"{_NAME} takes every scaling of a {kind} model for YaRN"
    for part in layers_of(given):
        if spelled_type(part) in ("linear", "yarn", "dynamic") and part.get("factor", 1.0) is None:
            return f"{_NAME} needs factor with {spelled_type(part)}"
    return None


def _adapted(text: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    match spelled_type(given):
        case "longrope":
            return with_mscale(_NAME, text, given)
        case "yarn":
            return _yarn(model_type(text), given)
        case "dynamic":
            factor = given.get("factor", 1.0)
            fixed = with_fixed_base(text, given, factor * factor - (factor - 1))
            return fixed, [
                f"{_NAME} computes dynamic NTK once, for factor times the length, and uses it always."
            ]
        case _:
            return dict(given), []


def _yarn(kind: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """SGLang's attention factor: attn_factor times the ratio of both mscales, else times YaRN's own."""
    factor, wanted = given.get("factor", 1.0), given.get("attention_factor")
    scale, all_dims = given.get("mscale"), given.get("mscale_all_dim")
    if kind in _DEEPSEEK:
        scale, all_dims = given.get("mscale", 1.0), given.get("mscale_all_dim", 0.0)
    used = temperature(factor)
    if scale is not None and all_dims is not None:
        used = temperature(factor, scale) / temperature(factor, all_dims)
    used *= given.get("attn_factor", 1.0)
    lost = []
    if wanted is not None and wanted != used:
        lost.append(
            f"{_NAME} ignores attention_factor {wanted:g} of yarn and multiplies by {used:.6g}; it reads "
            "attn_factor, times YaRN's own factor."
        )
    return {**given, "factor": factor, "attention_factor": used}, lost
