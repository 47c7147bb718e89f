"""What llama.cpp gets from a config through its own converter, from the source in llama-cpp-python 0.3.36."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resrope.models.engines.guard import guarded
from resrope.models.engines.known import LLAMA_CPP
from resrope.models.engines.reading import (
    Reading,
    float32_table,
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
from resrope.models.gguf import float32_powers
from resrope.spec import Frequencies, RopeSpec

ENGINE = "llama.cpp"
_NAME = "llama.cpp"
# transformers' causal models that convert_hf_to_gguf.py does not know.
_NOT_CONVERTED = names(
    "aria axk1 axk2 bailing_hybrid beam blt codegen cwm diffllama doge flex_olmo gpt_neox_japanese gptj "
    "helium jetmoe lfm3 longcat_flash minimax minimax_m3_vl ministral modernbert-decoder moshi nanochat "
    "olmo_hybrid persimmon phi4_multimodal recurrent_gemma vaultgemma zamba2 zaya"
)
# The converter writes llama3 as rope_freqs for these, and the loader reads the tensor.
FREQ_FACTORS = names(
    "apertus arcee deci exaone exaone4 granite granite_swa granitemoe granitemoe_swa granitemoehybrid "
    "granitemoeshared iquestcoder llama llama4 mistral mixtral nanbeige step3p5"
)
# For these it writes the tensor too, and the loader, which does not know it, refuses the file.
_UNEXPECTED_TENSOR = frozenset({"afmoe", "smollm3"})
# The converter writes LongRoPE's factors for these alone.
LONG_FACTORS = frozenset({"minicpm", "minicpm3", "phi3", "phimoe"})
_LOG_MULTIPLIED = names("deepseek_v2 deepseek_v3 deepseek_v32")
_MSCALED = frozenset({"phi3", "phimoe"})
# The converter sets rope.scaling.type to none (or linear by 1) for these whatever the config says.
_NO_SCALING = names("bitnet cohere cohere2 cohere2_moe deepseek exaone_moe")


@guarded(ENGINE, _NAME, LLAMA_CPP | _NOT_CONVERTED)
def read(config: Mapping[str, Any]) -> Reading:
    """What llama.cpp rotates with after convert_hf_to_gguf.py made a GGUF file of a model with ``config``."""
    text = text_part(config)
    kind = model_type(text)
    if kind in _NOT_CONVERTED:
        return refused(ENGINE, f"{_NAME}'s converter does not know {kind} models")
    given, ignored = version_5_parameters(text)
    ignored = [s.replace("transformers 5", f"{_NAME}'s converter, as transformers 5,") for s in ignored]
    types = rope_types(given)
    if "llama3" in types and kind in _UNEXPECTED_TENSOR:
        return refused(ENGINE, f"{_NAME} refuses llama3 factors in {kind} models: wrong number of tensors")
    if (
        "longrope" in types
        and kind in _MSCALED
        and "original_max_position_embeddings" not in {**text, **given}
    ):
        return refused(ENGINE, f"{_NAME}'s converter needs original_max_position_embeddings of {kind} models")
    full = nested(given).get("full_attention", given)
    made, lost = _adapted(text, kind, dict(full))
    # The sliding layers keep a base of their own and are never scaled.
    layers = {
        layer: made if layer == "full_attention" else without_scaling(part)
        for layer, part in nested(given).items()
    }
    return reading(ENGINE, seen(text, layers or made), [*ignored, *lost], table=_table)


def _adapted(text: Mapping[str, Any], kind: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The parameters with what the converter writes in place of theirs."""
    spelled = spelled_type(given)
    if spelled in ("default", "mrope"):
        return {**given, "rope_type": "default"}, []
    if kind in _NO_SCALING:
        return without_scaling(given), [f"{_NAME}'s converter writes no rope scaling for {kind} models."]
    match spelled:
        case "linear":
            return given, []
        case "yarn":
            return _yarn(kind, given)
        case "longrope" | "su" if kind in LONG_FACTORS:
            return _longrope(text, kind, given)
        case "llama3" if kind in FREQ_FACTORS:
            return given, []
        case "proportional" if kind.startswith("gemma4"):
            return given, []
    return without_scaling(given), [
        f"{_NAME}'s converter drops {spelled} scaling of {kind} models: plain RoPE."
    ]


def _yarn(kind: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """llama.cpp multiplies by 0.1 · ln(factor) + 1 and rounds the bounds, whatever the config says."""
    if given.get("factor") is None:
        return without_scaling(given), [f"{_NAME}'s converter drops yarn without factor: plain RoPE."]
    used = 0.1 * math.log(given["factor"]) + 1.0 if given["factor"] > 1 else 1.0
    lost = []
    wanted = given.get("attention_factor")
    if given.get("mscale_all_dim") and kind in _LOG_MULTIPLIED:
        # The file then carries mscale_all_dim, and llama.cpp takes mscale to equal it.
        used = 1.0
    elif given.get("mscale") and given.get("mscale_all_dim"):
        lost.append(
            f"{_NAME} ignores mscale and mscale_all_dim of {kind} models: it multiplies by {used:.6g}."
        )
    if wanted is not None and wanted != used:
        lost.append(f"{_NAME} ignores attention_factor {wanted:g} of yarn and multiplies by {used:.6g}.")
    if given.get("truncate") is False:
        lost.append(f"{_NAME} ignores truncate: it rounds the bounds of yarn always.")
    return {**{k: v for k, v in given.items() if k != "truncate"}, "attention_factor": used}, lost


def _longrope(text: Mapping[str, Any], kind: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    length = text.get("max_position_embeddings") or 1
    original = {**text, **given}.get("original_max_position_embeddings", length)
    ratio = length / original
    used = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 and kind in _MSCALED else 1.0
    wanted = given.get("attention_factor")
    lost = (
        [f"{_NAME}'s converter ignores attention_factor {wanted:g} of longrope and writes {used:.6g}."]
        if wanted is not None and wanted != used
        else []
    )
    return {**given, "rope_type": "longrope", "attention_factor": used}, lost


def _table(spec: RopeSpec) -> Frequencies:
    """The table relative to llama.cpp's powers, products of one float32 step in place of θ^(−2j/d)."""
    table = float32_table(spec)
    exact = (spec.rope_theta ** (-2 * j / spec.rotary_dim) for j in range(spec.rotary_dim // 2))
    powers = float32_powers(spec.rope_theta, spec.rotary_dim)
    drifted = tuple(f * p / e for f, p, e in zip(table.inv_freq, powers, exact, strict=True))
    return Frequencies(inv_freq=drifted, attention_factor=table.attention_factor)
