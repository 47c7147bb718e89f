"""Read the rotary position embedding of any Hugging Face config; standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resrope.models import defaults
from resrope.models.scaling import scaling_from_parameters
from resrope.spec import RopeSpec, check

_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
_THETA = ("rope_theta", "rotary_emb_base", "global_rope_theta")
_LOCAL_THETA = ("rope_local_base_freq", "local_rope_theta")
_SHARE = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_emb_fraction")
_ROTARY = (
    "rope_parameters",
    "rope_scaling",
    *_THETA,
    *_LOCAL_THETA,
    *_SHARE,
    "rotary_dim",
    "qk_rope_head_dim",
)
# Switches outside the RoPE parameters that change the table in ways no transformers class has.
_REFUSED = ("use_dynamic_ntk", "rope_ratio", "rotary_scaling_factor")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRope:
    """The rotary position embeddings of one model.

    specs: one RopeSpec by layer type, e.g. "full_attention" and "sliding_attention"; "default" where
    all layers share one. max_position_embeddings: tokens, as the config states it.
    original_max_position_embeddings: tokens before scaling; None where nothing is scaled or the
    config does not say.
    """

    model_type: str
    specs: dict[str, RopeSpec]
    max_position_embeddings: int | None = None
    original_max_position_embeddings: int | None = None


def rope_from_config(config: Mapping[str, Any]) -> ModelRope:
    """The rotary position embeddings that transformers would give a model with this config.

    Reads the spelling of transformers 4 (rope_theta, rope_scaling, rotary_pct, …), that of
    transformers 5 (rope_parameters, flat or by layer type), and the text part of multimodal configs.
    What the config leaves out is what transformers' class for its model_type assumes (defaults.py).
    Raises ValueError where there is no RoPE, where a rope type or key is unknown, or where a needed
    value is neither given nor assumed.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a config must be a mapping of its fields, got {type(config).__name__}")
    inner = next((config[key] for key in _INNER if isinstance(config.get(key), Mapping)), None)
    if inner is not None and (not _rotates(config) or _rotates(_innermost(inner))):
        return rope_from_config(inner)
    _check_rotates(config)
    model_type = _model_type(config)
    specs = {layer: _spec(config, layer, given) for layer, given in _by_layer(config).items()}
    # With several layer types the scaled one, if any, tells the original length.
    originals = [getattr(s.scaling, "original_max_position_embeddings", None) for s in specs.values()]
    return ModelRope(
        model_type=model_type,
        specs=specs,
        max_position_embeddings=_max_position_embeddings(config),
        original_max_position_embeddings=next((n for n in originals if n is not None), None),
    )


def _innermost(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _INNER:
        if isinstance(config.get(key), Mapping):
            return _innermost(config[key])
    return config


def _model_type(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type") or "unknown")


def _first(config: Mapping[str, Any], *names: str) -> Any:
    """The first of ``names`` that is given and not null."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def _rotates(config: Mapping[str, Any]) -> bool:
    if config.get("alibi") or config.get("position_embedding_type", "rotary") not in ("rotary", "rope", None):
        return False
    known = _model_type(config) in defaults.ROPE_THETA or _model_type(config) in defaults.LAYER_THETA
    return known or _first(config, *_ROTARY) is not None


def _check_rotates(config: Mapping[str, Any]) -> None:
    model_type = _model_type(config)
    if not _rotates(config):
        raise ValueError(
            f"no rotary position embedding in a config of model_type {model_type!r}: "
            f"it would have one of {', '.join(_ROTARY)}, "
            "and neither alibi nor another position_embedding_type"
        )
    for name in _REFUSED:
        if config.get(name):
            raise ValueError(
                f"{name} changes the frequencies in a way resrope does not know, got {config[name]!r}"
            )


def _max_position_embeddings(config: Mapping[str, Any]) -> int | None:
    length = _first(config, "max_position_embeddings", "n_positions")
    if length is not None:
        check.integer("max_position_embeddings", length, 1, "tokens")
    return None if length is None else int(length)


def _parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """rope_parameters or rope_scaling, whichever is there."""
    given = {name: config.get(name) or {} for name in ("rope_parameters", "rope_scaling")}
    for name, value in given.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping or null, got {value!r}")
    new, old = given.values()
    if new and old and new != old:
        raise ValueError("rope_parameters and rope_scaling must not differ; give only one of them")
    return new or old


def _by_layer(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The RoPE parameters by layer type; a layer type that is null does not rotate."""
    parameters = _parameters(config)
    nested = {layer: p for layer, p in parameters.items() if isinstance(p, Mapping)}
    if nested:
        return nested
    pair = defaults.LAYER_THETA.get(_model_type(config))
    local = _first(config, *_LOCAL_THETA)
    if pair is None and local is None:
        return {"default": parameters}
    full_default, local_default = pair or (None, None)
    full = _first({**config, **parameters}, *_THETA) or full_default
    sliding = local or local_default or full
    return {
        "full_attention": {**parameters, "rope_theta": full},
        "sliding_attention": {"rope_theta": sliding},
    }


def _spec(config: Mapping[str, Any], layer: str, parameters: Mapping[str, Any]) -> RopeSpec:
    given = {k: v for k, v in parameters.items() if v is not None}
    head_dim, share = _sizes(config, layer, given)
    return RopeSpec(
        head_dim=head_dim,
        rope_theta=_theta(config, given),
        partial_rotary_factor=share,
        scaling=scaling_from_parameters(
            given,
            nested=layer != "default",
            max_length=_max_position_embeddings(config),
            outer_original=config.get("original_max_position_embeddings"),
        ),
    )


def _theta(config: Mapping[str, Any], given: Mapping[str, Any]) -> float:
    theta = _first(given, "rope_theta")
    theta = _first(config, *_THETA) if theta is None else theta
    theta = defaults.ROPE_THETA.get(_model_type(config)) if theta is None else theta
    if theta is None:
        raise ValueError(
            f"rope_theta is missing, and model_type {_model_type(config)!r} has no known default"
        )
    check.number("rope_theta", theta, 1, "the rotary base", strict=True)
    return float(theta)


def _sizes(config: Mapping[str, Any], layer: str, given: Mapping[str, Any]) -> tuple[int, float]:
    """Head size and the share of it that is rotated."""
    share = _first({**config, **given}, *_SHARE)
    latent = config.get("qk_rope_head_dim")
    # Multi-head latent attention rotates a separate part of each head; the table knows only that part.
    if latent is not None and (share is None or config.get("head_dim") is None):
        return _positive("qk_rope_head_dim", latent), 1.0 if share is None else share
    head_dim = _head_dim(config, layer)
    if share is None and config.get("rotary_dim") is not None:
        return head_dim, _share_of(_positive("rotary_dim", config["rotary_dim"]), head_dim)
    if share is None:
        share = defaults.PARTIAL_ROTARY_FACTOR.get(_model_type(config), 1.0)
    return head_dim, share


def _share_of(rotary_dim: int, head_dim: int) -> float:
    """The share s with int(head_dim · s) == rotary_dim; the plain quotient can fall one short."""
    share = rotary_dim / head_dim
    return share if int(head_dim * share) == rotary_dim else math.nextafter(share, math.inf)


def _head_dim(config: Mapping[str, Any], layer: str) -> int:
    own = _head_dim_of_layer(config, layer)
    if own is not None:
        return own
    given = _first(config, "head_dim", "attention_head_dim", "kv_channels")
    if given is None:
        given = defaults.HEAD_DIM.get(_model_type(config))
    if given is not None:
        return _positive("head_dim", given)
    hidden, heads = (
        _first(config, "hidden_size", "n_embd", "d_model"),
        _first(config, "num_attention_heads", "n_head", "n_heads"),
    )
    if hidden is None or heads is None:
        raise ValueError(
            "head_dim is missing, and so is hidden_size or num_attention_heads to derive it from"
        )
    return _positive("hidden_size", hidden) // _positive("num_attention_heads", heads)


def _head_dim_of_layer(config: Mapping[str, Any], layer: str) -> int | None:
    """The head size that one layer type has for itself (Gemma 4), in either spelling."""
    if config.get("global_head_dim") is not None and layer == "full_attention":
        return _positive("global_head_dim", config["global_head_dim"])
    layers, types = config.get("per_layer_config"), config.get("layer_types")
    if not isinstance(layers, Mapping) or not isinstance(types, list):
        return None
    # transformers pads the keys: "05" is layer 5.
    own = {
        int(i): c.get("head_dim") for i, c in layers.items() if str(i).isdecimal() and isinstance(c, Mapping)
    }
    sizes = [own.get(i) for i, kind in enumerate(types) if layer in (kind, "default")]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"per_layer_config gives the layers of type {layer} different head_dim, one is accepted"
        )
    return None if not sizes or sizes[0] is None else _positive("head_dim", sizes[0])


def _positive(name: str, value: object) -> int:
    check.integer(name, value, 1, "dimensions or heads")
    assert isinstance(value, int)
    return value
