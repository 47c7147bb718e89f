"""What MLX-LM makes of a config, from the source of 0.32.2; its rotations were run for the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resrope.models.engines.guard import fixed, guarded
from resrope.models.engines.known import MLX
from resrope.models.engines.reading import (
    Reading,
    model_type,
    names,
    nested,
    parameters,
    reading,
    refused,
    seen,
    spelled_type,
    text_part,
)

ENGINE = "mlx"
_NAME = "MLX-LM"
# Their model files hand no scaling to the rotation.
NO_SCALING = names(
    "Klear afm7 baichuan_m1 cohere cohere2 dbrx ernie4_5 ernie4_5_moe gemma gemma2 gemma3n glm glm4 glm4_moe "
    "gpt_neox gptj granitemoehybrid helium lfm2 lfm2_moe llama4_text mimo_v2_flash minimax minimax_m2 "
    "mixtral nanochat olmo olmo_hybrid phi plamo qwen2_moe qwen3_moe recurrent_gemma stablelm "
    "starcoder2"
)
_LINEAR_ONLY = names("deepseek nemotron qwen2_moe")
# They rotate pairs of neighbours, which MLX-LM's classes for these two types do not: those rotate halves.
_PAIRED = names(
    "bailing_moe_v3 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa llama4 longcat_flash mistral4"
)
_HALVES_ALWAYS = ("longrope", "su")
# No model file of their own or of a twin.
_UNKNOWN = names(
    "arcee bamba blt chameleon codegen cohere2_moe csm cwm deepseek_v4 diffllama doge emu3_text_model "
    "eurobert falcon flex_olmo glm4v glm4v_moe gpt_neox_japanese granite_swa granitemoe_swa "
    "granitemoeshared gte hunyuan_v1_moe hunyuan_vl hy_v3 hy_v4 jais2 jetmoe lfm3 ministral "
    "mllama_text_model modernbert modernbert-decoder moshi persimmon phi4_multimodal qwen2_5_omni "
    "qwen3_omni_moe t5gemma2 vaultgemma youtu zamba2 zaya"
)
# Their model files look into rope_parameters: for everything, or for the base alone.
_MODERN = names("glm_moe_dsa laguna mellum minimax_m3_vl ministral3 mistral4 qwen3 qwen3_5 qwen3_5_moe")
_MODERN_BY_LAYER = frozenset({"gemma4"})
_MODERN_THETA = names("exaone_moe granitemoehybrid lfm2 lfm2_moe muse_glimmer olmo_hybrid")
# The base where the config gives none at the top level; where a model is not named there, it must.
_THETA = {
    10_000.0: (
        "afmoe bitnet deepseek deepseek_v2 deepseek_v3 deepseek_v32 gemma gemma2 glm granitemoehybrid "
        "hunyuan_v1_dense internlm2 internlm3 kimi_vl llama mimo mistral mistral4 nanbeige nanochat nemotron "
        "olmo olmo2 olmo_hybrid olmoe phi phi3 phimoe plamo qwen3_5 seed_oss smollm3 step3p5"
    ),
    50_000.0: "afm7 cohere2",
    100_000.0: "starcoder2",
    150_000.0: "gpt_oss",
    500_000.0: "iquestloopcoder muse_glimmer nemotron-nas",
    1_000_000.0: (
        "exaone_moe gemma3 glm4_moe_lite lfm2 lfm2_moe minicpm minicpm3 mixtral qwen2 "
        "qwen2_5_vl qwen2_moe qwen2_vl"
    ),
    5_000_000.0: "minimax_m3_vl",
    8_000_000.0: "cohere",
    100_000_000_000.0: "falcon_h1",
}
THETA = {name: theta for theta, names in _THETA.items() for name in names.split()}
_NO_THETA = frozenset({"gptj", "gpt_neox", "gemma4", "gptneox"})
_ONLY_QUANTISED = frozenset({"gpt_oss"})
_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional", "mrope")
_PHI_SHARE = 0.4
_FIXED = frozenset({"gptj"})
_ORIGINAL = 4096
_LLAMA3_ORIGINAL = 8192


@guarded(ENGINE, _NAME, MLX | _UNKNOWN | _FIXED)
def read(config: Mapping[str, Any]) -> Reading:
    """What MLX-LM rotates a model of ``config`` with; most of its models do not read rope_parameters."""
    text = text_part(config)
    kind = model_type(text)
    if kind in _FIXED:
        return fixed(ENGINE, _NAME, config)
    if kind in _UNKNOWN:
        return refused(ENGINE, f"{_NAME} has no {kind} models")
    if kind in _MODERN_BY_LAYER:
        return reading(ENGINE, seen(text, parameters(text, "rope_parameters")))
    theta, given, ignored = _taken(text, kind)
    if theta is None and kind not in _NO_THETA:
        return refused(ENGINE, f"{_NAME} needs rope_theta beside rope_scaling for {kind} models")
    refusal = _refusal(text, kind, given)
    if kind in _ONLY_QUANTISED and "quantization_config" not in text and "quantization" not in text:
        refusal = f"{_NAME} loads only quantised experts of {kind} models"
    if refusal is not None:
        return refused(ENGINE, refusal)
    if kind in NO_SCALING and spelled_type(given) not in ("default", "mrope"):
        ignored.append(f"{_NAME} applies no rope scaling to {kind} models.")
        given = {}
    made, lost = _adapted(text, kind, given)
    view = _view(text, kind)
    return reading(ENGINE, seen(view, _by_layer(text, kind, theta, made)), [*ignored, *lost])


def _taken(text: Mapping[str, Any], kind: str) -> tuple[Any, dict[str, Any], list[str]]:
    """The base and the scaling that the model file takes, and what it passes over."""
    old, new = parameters(text, "rope_scaling"), parameters(text, "rope_parameters")
    flat = new if not nested(new) else {}
    theta, given = text.get("rope_theta", text.get("rotary_emb_base")), old
    if kind in _MODERN:
        given = old or flat
        theta = flat.get("rope_theta") if theta is None or kind != "qwen3" else theta
        theta = text.get("rope_theta") if theta is None else theta
        return THETA.get(kind) if theta is None else theta, given, []
    if kind in _MODERN_THETA:
        theta = flat.get("rope_theta", theta)
    lost = (
        ["rope_theta"]
        if theta is None and any("rope_theta" in p for p in [new, *nested(new).values()])
        else []
    )
    parts = [flat, *nested(new).values()]
    if not old and any(spelled_type(p) != "default" for p in parts):
        lost.append("the scaling")
    ignored = [f"{_NAME} does not read rope_parameters of {kind} models: {', '.join(lost)} there is lost."]
    return THETA.get(kind) if theta is None else theta, given, ignored if lost else []


def _refusal(text: Mapping[str, Any], kind: str, given: Mapping[str, Any]) -> str | None:
    spelled = given.get("type") or given.get("rope_type", "default")
    if not given or (kind in NO_SCALING and kind not in _LINEAR_ONLY):
        return None
    if kind == "phi3":
        missing = [k for k in ("long_factor", "type") if k not in given]
        return (
            f"{_NAME} needs {' and '.join(missing)} in the rope_scaling of phi3 models" if missing else None
        )
    if kind == "phimoe":
        missing = [
            k for k in ("short_factor", "long_factor", "short_mscale", "long_mscale") if k not in given
        ]
        return f"{_NAME} needs {', '.join(missing)} in the rope_scaling of phimoe models" if missing else None
    if kind in _LINEAR_ONLY and spelled != "default" and (spelled != "linear" or "type" not in given):
        return f'{_NAME} takes only "type": "linear" for {kind} models, got {spelled}'
    if spelled in _HALVES_ALWAYS and (kind in _PAIRED or text.get("rope_traditional")):
        return f"{_NAME} rotates halves of the head with {spelled}, {kind} models pairs of neighbours"
    if spelled not in _TYPES:
        return f"{_NAME} does not know rope_type {spelled!r}"
    needed = {
        "linear": ["factor"],
        "dynamic": ["factor"],
        "llama3": ["factor"],
        "yarn": ["factor"],
        "longrope": ["original_max_position_embeddings", "short_factor", "long_factor"],
    }
    missing = [k for k in needed.get(spelled, []) if k not in given]
    if spelled in ("longrope", "dynamic") and (kind == "gpt_oss" or not text.get("max_position_embeddings")):
        missing.append("max_position_embeddings")
    return f"{_NAME} needs {', '.join(missing)} with {spelled}" if missing else None


def _adapted(text: Mapping[str, Any], kind: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The scaling with what MLX-LM puts in place of its parts."""
    spelled = given.get("type") or given.get("rope_type", "default")
    spelled = "default" if spelled == "mrope" else spelled
    given = {**given, "rope_type": spelled}
    if kind == "phi3" and spelled not in ("longrope", "su", "linear"):
        return {}, [f"{_NAME} drops {spelled} scaling of phi3 models."] if spelled != "default" else []
    match spelled:
        case "longrope" | "su":
            return _longrope(text, kind, given)
        case "yarn":
            return _yarn(given)
        case "llama3":
            defaults = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
            return {**defaults, "original_max_position_embeddings": _LLAMA3_ORIGINAL, **given}, []
        case _:
            return given, []


def _longrope(text: Mapping[str, Any], kind: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """long_factor at every length, and an attention factor from the two lengths alone."""
    length = text.get("max_position_embeddings", 131_072)
    original = given.get("original_max_position_embeddings", _ORIGINAL)
    if kind in ("phi3", "phimoe"):
        original = text.get("original_max_position_embeddings", _ORIGINAL)
    ratio = length / original
    used = 1.0 if ratio <= 1.0 else math.sqrt(1 + math.log(ratio) / math.log(original))
    used = (given["long_mscale"] or used) if kind == "phimoe" else used
    lost = []
    wanted = given.get("attention_factor")
    if wanted is not None and wanted != used:
        lost.append(f"{_NAME} ignores attention_factor {wanted:g} of longrope and multiplies by {used:.6g}.")
    if given["short_factor"] != given["long_factor"]:
        lost.append(f"{_NAME} uses long_factor at every length, never short_factor.")
    long = {
        "rope_type": "longrope",
        "short_factor": given["long_factor"],
        "original_max_position_embeddings": original,
    }
    return {**given, **long, "attention_factor": used}, lost


def _yarn(given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Bounds always rounded outwards; the attention factor from factor and the mscales alone."""

    def temperature(mscale: float) -> float:
        factor = given["factor"]
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    used = temperature(given.get("mscale", 1)) / temperature(given.get("mscale_all_dim", 0))
    wanted, lost = given.get("attention_factor"), []
    if wanted is not None and wanted != used:
        lost.append(f"{_NAME} ignores attention_factor {wanted:g} of yarn and multiplies by {used:.6g}.")
    if given.get("truncate") is False:
        lost.append(f"{_NAME} ignores truncate: it rounds the bounds of yarn always.")
    kept = {"original_max_position_embeddings": _ORIGINAL, **given, "attention_factor": used}
    return {k: v for k, v in kept.items() if k != "truncate"}, lost


def _view(text: dict[str, Any], kind: str) -> dict[str, Any]:
    view = {k: v for k, v in text.items() if k not in ("original_max_position_embeddings", "rope_parameters")}
    if kind == "phi":
        view.setdefault("partial_rotary_factor", _PHI_SHARE)
    share = parameters(text, "rope_parameters").get("partial_rotary_factor")
    if kind in ("glm_moe_dsa", "minimax_m3_vl", "qwen3_5", "qwen3_5_moe") and share is not None:
        view["partial_rotary_factor"] = share
    return view


def _by_layer(text: Mapping[str, Any], kind: str, theta: Any, given: dict[str, Any]) -> dict[str, Any]:
    full = given if theta is None else {**given, "rope_theta": theta}
    if kind in ("gemma3", "gemma3n"):
        return {
            "full_attention": full,
            "sliding_attention": {"rope_theta": text.get("rope_local_base_freq", 10_000.0)},
        }
    if kind == "olmo3":
        return {"full_attention": full, "sliding_attention": {"rope_theta": theta}}
    return full
