"""A table spelled as a config that stock loaders read, with no code of ours on their side."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resrope.models.config import innermost
from resrope.models.extension import Extension
from resrope.models.provenance import provenance
from resrope.models.record import KEY
from resrope.models.scaling import WITHOUT_INFLUENCE
from resrope.models.spelling import write_both
from resrope.spec import AdjustedBase, Frequencies, Linear, Llama3, NTKAware, RopeSpec, Yarn, frequencies

if TYPE_CHECKING:
    from torch import Tensor

_HEAD_DIM_NONE = ("mistral", "mixtral", "ministral")
_ORIGINAL = "original_max_position_embeddings"
_ULPS = 4


def spellings(extension: Extension, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The ways to spell the extended tables in ``config``, the most widely read first.

    "plain": another rope_theta. "native": the rope type that transformers has for the scaling. "longrope":
    LongRoPE's factors for single features, which carry any table (equal for short and long). Raises
    ValueError where attention reads the rope parameters for something else that none of them keeps.
    """
    specs = [extension.after.specs[layer] for layer in extension.layers]
    found = ["longrope"]
    if all(_native(spec, extension.length) is not None for spec in specs):
        found.insert(0, "native")
    if all(_plain_theta(spec) is not None for spec in specs):
        found.insert(0, "plain")
    return _keeping_attention(innermost(config), extension, found)


def _keeping_attention(text: Mapping[str, Any], extension: Extension, found: list[str]) -> tuple[str, ...]:
    """Those of ``found`` that leave alone what else attention reads from the rope parameters.

    DeepSeek's softmax scale comes from factor and mscale_all_dim, whatever the rope type: longrope has
    no other use for them. Ministral 3's queries grow with the position over the original length, which only
    a native type keeps.
    """
    given = _given(text, extension.layers[0])
    if given.get("mscale_all_dim"):
        return ("longrope",)
    if given.get("llama_4_scaling_beta") is None:
        return tuple(found)
    lengths = [getattr(extension.after.specs[k].scaling, _ORIGINAL, None) for k in extension.layers]
    if "native" in found and all(n == given.get(_ORIGINAL) for n in lengths):
        return ("native",)
    raise ValueError(
        f"{text.get('model_type')} models scale their queries by {_ORIGINAL} of the rope parameters "
        f"({given.get(_ORIGINAL)}), which only yarn or llama3 without resonance and from that length keep"
    )


def spelled(
    config: Mapping[str, Any],
    extension: Extension,
    spelling: str,
    *,
    mscale: bool = False,
    folded: bool = False,
    engine: str | None = None,
) -> dict[str, Any]:
    """``config`` with the extended tables in it, in the spelling of transformers 5 and of transformers 4.

    spelling: one of ``spellings(extension)``. mscale: give the attention factor also as short_mscale and
    long_mscale, where vLLM and SGLang look for it. folded: the attention factor is in the weights, so
    the config says 1. Everything else in ``config`` stays; a ``resrope`` key says what was done, and for
    which engine.
    """
    out = copy.deepcopy(dict(config))
    text = innermost(out)
    by_layer = {
        layer: {
            **_unrelated(text, layer),
            **_parameters(extension, layer, spelling, mscale, folded),
            **_softmax(text, layer),
        }
        for layer in extension.after.specs
    }
    write_both(text, by_layer)
    _say_head_dim(text, extension)
    text["max_position_embeddings"] = extension.length
    if "original_max_position_embeddings" in text or text.get("model_type") in ("phi3", "phimoe"):
        text["original_max_position_embeddings"] = extension.length
    text[KEY] = provenance(extension, folded=folded, engine=engine)
    return out


def _softmax(text: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """The factor beside mscale_all_dim: attention computes its softmax scale from the two."""
    given = _given(text, layer)
    return {"factor": given["factor"]} if given.get("mscale_all_dim") and "factor" in given else {}


def _say_head_dim(text: dict[str, Any], extension: Extension) -> None:
    """Some classes leave head_dim at None, with which their longrope cannot be computed."""
    named = "head_dim" in text or text.get("model_type") in _HEAD_DIM_NONE
    if named and text.get("head_dim") is None:
        text["head_dim"] = next(iter(extension.after.specs.values())).head_dim


def _unrelated(text: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """What the config's rope parameters say besides frequencies: which feature serves which image axis."""
    given = _given(text, layer)
    # Some classes need partial_rotary_factor even where it is 1; where it is not given, none does.
    kept = {k: given[k] for k in (*WITHOUT_INFLUENCE, "partial_rotary_factor") if k in given}
    return {**kept, "mscale_all_dim": given["mscale_all_dim"]} if given.get("mscale_all_dim") else kept


def _given(text: Mapping[str, Any], layer: str) -> Mapping[str, Any]:
    """The rope parameters that the config has for a layer type now."""
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    found = given.get(layer, given)
    return found if isinstance(found, Mapping) else {}


def _parameters(
    extension: Extension, layer: str, spelling: str, mscale: bool, folded: bool
) -> dict[str, Any]:
    """transformers' rope_parameters of one layer type."""
    spec = extension.after.specs[layer]
    share = {"partial_rotary_factor": spec.partial_rotary_factor} if spec.partial_rotary_factor != 1.0 else {}
    if layer not in extension.layers:
        return {**share, "rope_theta": spec.rope_theta, **_kept(spec, extension.length)}
    if spelling == "plain":
        return {**share, "rope_theta": _plain_theta(spec), "rope_type": "default"}
    if spelling == "native":
        native = _native(spec, extension.length)
        assert native is not None
        return {
            **share,
            "rope_theta": spec.rope_theta,
            **native,
            **({"attention_factor": 1.0} if folded else {}),
        }
    return {**share, "rope_theta": spec.rope_theta, **longrope(spec, extension.length, mscale, folded)}


def _kept(spec: RopeSpec, length: int) -> dict[str, Any]:
    native = _native(spec, length)
    if native is None:
        raise ValueError(f"a layer type that keeps its table has none that a config can spell: {spec}")
    return native


def _plain_theta(spec: RopeSpec) -> float | None:
    """The rope_theta that alone gives the table of ``spec``; None where no base does."""
    if spec.resonance:
        return None
    match spec.scaling:
        case None:
            return spec.rope_theta
        case AdjustedBase():
            return spec.scaling.rope_theta
        case NTKAware():
            d = spec.rotary_dim
            exponent = 1.0 if spec.scaling.paper_base else d / (d - 2)
            return float(spec.rope_theta * spec.scaling.factor**exponent)
    return None


def _native(spec: RopeSpec, length: int) -> dict[str, Any] | None:
    """transformers' own parameters for the scaling, everything said; None where it has no such type."""
    scaling = spec.scaling
    if spec.resonance:
        return None
    match scaling:
        case None:
            return {"rope_type": "default"}
        case Linear():
            return {"rope_type": "linear", "factor": float(scaling.factor)}
        case Llama3():
            return {
                "rope_type": "llama3",
                "factor": float(scaling.factor),
                "low_freq_factor": float(scaling.low_freq_factor),
                "high_freq_factor": float(scaling.high_freq_factor),
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }
        case Yarn(ramp="index", blend="frequency"):
            out = {
                "rope_type": "yarn",
                "factor": float(scaling.factor),
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
                "beta_fast": float(scaling.beta_fast),
                "beta_slow": float(scaling.beta_slow),
                "attention_factor": frequencies(spec).attention_factor,
            }
            return out if scaling.truncate else {**out, "truncate": False}
    return None


def longrope(spec: RopeSpec, length: int, mscale: bool = False, folded: bool = False) -> dict[str, Any]:
    """LongRoPE's parameters that make transformers compute exactly this table, at every length.

    short_factor and long_factor are equal and original_max_position_embeddings is the new length, so
    that no engine switches, derives a factor of its own from the ratio of lengths, or disagrees about
    the boundary.
    """
    table = frequencies(spec)
    factors = list(nearest_factors(table, spec.rope_theta, spec.rotary_dim))
    attention = 1.0 if folded else float(table.attention_factor)
    out: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": attention,
        "original_max_position_embeddings": length,
    }
    return {**out, "short_mscale": attention, "long_mscale": attention} if mscale else out


def nearest_factors(table: Frequencies, rope_theta: float, rotary_dim: int) -> tuple[float, ...]:
    """factor_j such that float32 1 / (factor_j · θ^(2j/d)), as engines compute it, is nearest to inv_freq_j.

    The rounded quotient alone is right for about two features of three: each factor is tried up to 4
    units in the last place to either side. Raises ValueError on a frequency of 0, which no factor gives.
    """
    import torch

    if not all(table.inv_freq):
        raise ValueError("a frequency of 0 (proportional RoPE) cannot be spelled as a longrope factor")
    # The engines' own arithmetic, operation for operation: the powers are float32 already.
    powers = rope_theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.int64).float() / rotary_dim)
    wanted = torch.tensor(table.inv_freq, dtype=torch.float64)
    middle = (1.0 / (wanted * powers.double())).float()
    tried = torch.stack([_step(middle, k) for k in sorted(range(-_ULPS, _ULPS + 1), key=abs)])
    error = (1.0 / (tried * powers) - wanted.float()).abs()
    best = error.argmin(dim=0)
    return tuple(tried.gather(0, best[None])[0].tolist())


def _step(values: Tensor, ulps: int) -> Tensor:
    import torch

    toward = torch.full_like(values, math.copysign(math.inf, ulps))
    for _ in range(abs(ulps)):
        values = torch.nextafter(values, toward)
    return values
