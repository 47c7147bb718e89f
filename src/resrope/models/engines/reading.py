"""What an engine makes of a config: the common shape, and the float32 formulas that engines share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resrope.models.config import innermost, rope_from_config
from resrope.models.record import KEY
from resrope.spec import (
    DynamicNTK,
    Frequencies,
    Linear,
    Llama3,
    LongRope,
    Proportional,
    RopeSpec,
    Yarn,
    frequencies,
)

if TYPE_CHECKING:
    from torch import Tensor

# What a stock engine looks at in the parameters of a rope type; it passes over everything else.
_READ = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": ("factor",),
}
_ALWAYS_READ = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
STOCK_TYPES = tuple(_READ)
SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_emb_fraction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one engine makes of one config.

    engine: its name in ``ENGINES``. tables: by layer type, as in ``ModelRope.specs``, what it rotates q and
    k with; float32 values, the attention factor as it multiplies both cos and sin. beyond: the same for
    sequences longer than ``boundary`` tokens, where the engine then changes its table (dynamic NTK,
    LongRoPE with two sets of factors), else None. ignored: one plain sentence for each thing in the config
    that it drops or reads otherwise without a word. refusal: why it would not load the model at all;
    tables is then empty.
    """

    engine: str
    tables: dict[str, Frequencies] = field(default_factory=dict)
    beyond: dict[str, Frequencies] | None = None
    boundary: int | None = None
    ignored: tuple[str, ...] = ()
    refusal: str | None = None


def names(text: str) -> frozenset[str]:
    """The words of ``text``, as tables of model types are written here."""
    return frozenset(text.split())


# Attention scales q·k by (0.1 · mscale_all_dim · ln(factor) + 1)² in transformers 5.23, read off the rope
# parameters whatever their type: a config that drops or changes the two changes more than the table.
SOFTMAX_FROM_YARN = names(
    "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa hy_v4 "
    "longcat_flash minicpm3 mistral4 mistral_large4 youtu"
)
# Queries grow with their position past original_max_position_embeddings in transformers 5.23:
# 1 + llama_4_scaling_beta · ln(1 + ⌊position / original⌋), read off the rope parameters at every forward.
QUERY_SCALE_FROM_LENGTH = frozenset({"ministral3", "mistral4"})


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text part of ``config`` as a stock engine sees it: without nulls and without resrope's own key."""
    return {k: v for k, v in innermost(config).items() if v is not None and k != KEY}


def model_type(text: Mapping[str, Any]) -> str:
    """The model type without the suffix that multimodal configs give to their text part."""
    return str(text.get("model_type") or "unknown").removesuffix("_text")


def parameters(text: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of ``rope_parameters`` or ``rope_scaling``; empty where there is none."""
    value = text.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def nested(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of ``given`` that are by layer type."""
    return {layer: dict(value) for layer, value in given.items() if isinstance(value, Mapping)}


def spelled_type(given: Mapping[str, Any]) -> Any:
    """The rope type under its new or its old key."""
    return given.get("rope_type", given.get("type", "default"))


def layers_of(given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parameters of every layer type; the parameters themselves where they are flat."""
    return list(nested(given).values()) or [given]


def rope_types(given: Mapping[str, Any]) -> list[Any]:
    """The rope types in ``given``, flat or by layer type."""
    return [spelled_type(part) for part in layers_of(given)]


def without_scaling(given: Mapping[str, Any]) -> dict[str, Any]:
    """The base and the share alone."""
    return {k: given[k] for k in ("rope_theta", "partial_rotary_factor") if k in given}


def refused(engine: str, why: str) -> Reading:
    """The reading of an engine that would not load the model."""
    return Reading(engine=engine, refusal=" ".join(why.split()))


def seen(text: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``text`` with ``given`` for its only rope parameters, each cut down to what its rope type reads."""
    parts = nested(given)
    kept = {layer: _stock(part) for layer, part in parts.items()} if parts else _stock(given)
    return {**{k: v for k, v in text.items() if k != "rope_scaling"}, "rope_parameters": kept}


def _stock(given: Mapping[str, Any]) -> dict[str, Any]:
    rope_type = spelled_type(given)
    keys = (*_ALWAYS_READ, *_READ.get(rope_type, ())) if isinstance(rope_type, str) else ()
    return {"rope_type": rope_type, **{k: given[k] for k in keys if given.get(k) is not None}}


def reading(
    engine: str,
    config: Mapping[str, Any],
    ignored: Iterable[str] = (),
    table: Callable[[RopeSpec], Frequencies] | None = None,
) -> Reading:
    """The reading of an engine that rotates as transformers does, given the config as the engine sees it.

    table: another way to compute a spec's table. A config without a table becomes a refusal.
    """
    compute = float32_table if table is None else table
    try:
        rope = rope_from_config(config)
        near = {layer: compute(_within(spec)) for layer, spec in rope.specs.items()}
        far = {layer: compute(_beyond(spec)) for layer, spec in rope.specs.items()}
    except (ValueError, TypeError) as error:
        return refused(engine, str(error))
    lengths = [getattr(s.scaling, "original_max_position_embeddings", None) for s in rope.specs.values()]
    return Reading(
        engine=engine,
        tables=near,
        beyond=None if near == far else far,
        boundary=None if near == far else next(n for n in lengths if n),
        ignored=tuple(ignored),
    )


def _within(spec: RopeSpec) -> RopeSpec:
    """``spec`` for sequences of at most the original length."""
    if isinstance(spec.scaling, DynamicNTK | LongRope):
        return spec.at_length(spec.scaling.original_max_position_embeddings)
    return spec


def _beyond(spec: RopeSpec) -> RopeSpec:
    """``spec`` for sequences of the promised length, one token more than the original at the least."""
    if not isinstance(spec.scaling, DynamicNTK | LongRope):
        return spec
    original = spec.scaling.original_max_position_embeddings
    return spec.at_length(max(round(spec.scaling.factor * original), original + 1))


def float32_table(spec: RopeSpec) -> Frequencies:
    """The table of ``spec`` as transformers and vLLM compute it: the same float32 operations, in order.

    Equal to the buffers of transformers 5.23 to the last bit on the same machine.
    """
    import torch

    dims = torch.arange(0, spec.rotary_dim, 2, dtype=torch.int64).float()
    inv_freq = _inv_freq(spec, dims / spec.rotary_dim)
    factor = frequencies(spec).attention_factor
    return Frequencies(inv_freq=tuple(inv_freq.tolist()), attention_factor=factor)


def _inv_freq(spec: RopeSpec, exponents: Tensor) -> Tensor:
    theta, scaling = spec.rope_theta, spec.scaling
    match scaling:
        case None:
            return 1.0 / theta**exponents
        case Linear():
            return (1.0 / theta**exponents) / scaling.factor
        case DynamicNTK():
            return 1.0 / _stretched(scaling, spec) ** exponents
        case Yarn():
            return _yarn(scaling, spec, theta**exponents)
        case Llama3():
            return _llama3(scaling, 1.0 / theta**exponents)
        case LongRope():
            return 1.0 / (_factors(scaling) * theta**exponents)
        case Proportional():
            turning = int(spec.partial_rotary_factor * spec.head_dim // 2)
            inv_freq = 1.0 / theta**exponents
            inv_freq[turning:] = 0.0
            return inv_freq / scaling.factor
        case _:
            raise ValueError(f"no stock engine has {type(scaling).__name__}")


def _stretched(scaling: DynamicNTK, spec: RopeSpec) -> float:
    length = scaling.original_max_position_embeddings
    served = max(scaling.seq_len or length, length)
    ratio = (scaling.factor * served / length) - (scaling.factor - 1)
    return float(spec.rope_theta * ratio ** (spec.rotary_dim / (spec.rotary_dim - 2)))


def _factors(scaling: LongRope) -> Tensor:
    import torch

    is_long = (scaling.seq_len or 0) > scaling.original_max_position_embeddings
    return torch.tensor(scaling.long_factor if is_long else scaling.short_factor, dtype=torch.float32)


def _yarn(yarn: Yarn, spec: RopeSpec, powers: Tensor) -> Tensor:
    import torch

    def index_turning(times: float) -> float:
        length = yarn.original_max_position_embeddings
        turns = math.log(length / (times * 2 * math.pi))
        return (spec.rotary_dim * turns) / (2 * math.log(spec.rope_theta))

    low, high = index_turning(yarn.beta_fast), index_turning(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_dim - 1)
    high = high + 0.001 if low == high else high
    features = torch.arange(spec.rotary_dim // 2, dtype=torch.float32)
    keep = 1 - torch.clamp((features - low) / (high - low), 0, 1)
    return (1.0 / (yarn.factor * powers)) * (1 - keep) + (1.0 / powers) * keep


def _llama3(llama3: Llama3, inv_freq: Tensor) -> Tensor:
    import torch

    length, low, high = (
        llama3.original_max_position_embeddings,
        llama3.low_freq_factor,
        llama3.high_freq_factor,
    )
    wavelengths = 2 * math.pi / inv_freq
    stretched = torch.where(wavelengths > length / low, inv_freq / llama3.factor, inv_freq)
    smooth = (length / wavelengths - low) / (high - low)
    mixed = (1 - smooth) * stretched / llama3.factor + smooth * stretched
    between = ~(wavelengths < length / high) * ~(wavelengths > length / low)
    return torch.where(between, mixed, stretched)
