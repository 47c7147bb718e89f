"""What rotary classes of engines make of a written config, derived here from the mathematics.

vLLM and SGLang need a GPU to run; their rotary tables do not. For transformers this gives the table that
the config's float32 numbers spell, so that rounding and disagreement can be told apart.

Facts about vLLM 0.33 and SGLang 0.5: both give longrope the scale short_mscale or long_mscale, without them
√(1 + ln(max/original) / ln(original)), and never read attention_factor there; of yarn vLLM reads it, SGLang
takes 0.1·ln(factor) + 1; longrope is refused for interleaved heads; SGLang hands some architectures no
scaling at all. Nothing of resrope is imported: two derivations check each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Pairs of neighbours rotate together; both engines build longrope for pairs of halves only.
INTERLEAVED = ("cohere", "cohere2", "glm", "glm4", "deepseek_v3")
# SGLang's model files that call its rotary factory without a scaling.
SGLANG_UNSCALED = ("gemma", "gemma2", "mixtral", "phi", "stablelm", "starcoder2", "olmo")
ENGINES = ("vllm", "sglang", "transformers")


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """inv_freq: [rotary_dim/2] float32, radians per token; scale: multiplies cos and sin."""

    inv_freq: Tensor
    scale: float = 1.0


def tables(engine: str, config: Mapping[str, Any], *, head_dim: int, last: int) -> dict[str, Rotary]:
    """The tables by layer type ("default" where all layers share one) for a prompt that ends at ``last``.

    config: a config.json as written; head_dim: rotated heads' size. Raises ValueError where the engine would
    refuse the config, or where it has a rope type that is not derived here.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    text = config.get("text_config") or config
    given = text.get("rope_parameters") or {
        "rope_theta": text["rope_theta"],
        **(text.get("rope_scaling") or {}),
    }
    layers = {name: p for name, p in given.items() if isinstance(p, Mapping)} or {"default": given}
    return {name: _table(engine, text, p, head_dim, last) for name, p in layers.items()}


def _table(
    engine: str, text: Mapping[str, Any], given: Mapping[str, Any], head_dim: int, last: int
) -> Rotary:
    kind = given.get("rope_type", given.get("type", "default"))
    if engine == "sglang" and text["model_type"] in SGLANG_UNSCALED:
        kind = "default"
    rotary_dim = int(head_dim * given.get("partial_rotary_factor", 1.0))
    powers = float(given["rope_theta"]) ** (torch.arange(0, rotary_dim, 2, dtype=torch.float) / rotary_dim)
    match kind:
        case "default" | "mrope":
            return Rotary(inv_freq=1.0 / powers)
        case "linear":
            return Rotary(inv_freq=1.0 / powers / given["factor"])
        case "yarn":
            scale = given.get("attention_factor") if engine != "sglang" else None
            return _yarn(given, powers, scale)
        case "longrope":
            if text["model_type"] in INTERLEAVED and engine != "transformers":
                raise ValueError(f"longrope is for pairs of halves, {text['model_type']} rotates neighbours")
            return _longrope(engine, text, given, powers, last)
    raise ValueError(f"rope type {kind!r} is not derived here")


def _longrope(
    engine: str, text: Mapping[str, Any], given: Mapping[str, Any], powers: Tensor, last: int
) -> Rotary:
    original = text.get("original_max_position_embeddings") or given["original_max_position_embeddings"]
    longest = text["max_position_embeddings"]
    # vLLM decides once, by the longest prompt it will take; the others at every batch, SGLang by its last
    # position, transformers by its length.
    long = longest > original if engine == "vllm" else last + (engine == "transformers") > original
    factors = torch.tensor(given["long_factor" if long else "short_factor"], dtype=torch.float)
    ratio = longest / original
    derived = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    mscale = "long_mscale" if long else "short_mscale"
    scale = given.get("attention_factor" if engine == "transformers" else mscale)
    return Rotary(inv_freq=1.0 / (factors * powers), scale=derived if scale is None else scale)


def _yarn(given: Mapping[str, Any], powers: Tensor, scale: float | None) -> Rotary:
    """YaRN (arXiv 2309.00071): frequencies that turn often stay, those that turn rarely are divided."""
    half, factor = powers.numel(), given["factor"]
    length, theta = given["original_max_position_embeddings"], given["rope_theta"]

    def feature(turns: float) -> float:
        # The index, not whole, of the feature that makes this many turns in the original length.
        return half * math.log(length / (turns * math.tau)) / math.log(theta)

    low, high = feature(given.get("beta_fast", 32)), feature(given.get("beta_slow", 1))
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    width = high - low if high > low else 0.001
    # The engines' order of operations, for the last bit.
    kept = 1 - ((torch.arange(half, dtype=torch.float) - low) / width).clamp(0, 1)
    inv_freq = (1.0 / (factor * powers)) * (1 - kept) + (1.0 / powers) * kept
    derived = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return Rotary(inv_freq=inv_freq, scale=derived if scale is None else scale)
