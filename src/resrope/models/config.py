"""Read the rotary position embedding of any Hugging Face config; standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from resrope.models import defaults
from resrope.models.record import KEY, recorded_specs
from resrope.models.scaling import is_resonant, scaling_from_parameters
from resrope.spec import RopeSpec, check, frequencies

M = TypeVar("M", Mapping[str, Any], dict[str, Any])

_SPELLINGS = ("rope_parameters", "rope_scaling")
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


# These layers never look further back than their window, which is shorter than what they were trained on.
_WINDOWED = ("sliding_attention", "chunked_attention", "local_attention")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRope:
    """The rotary position embeddings of one model.

    specs: one RopeSpec by layer type, e.g. "full_attention" and "sliding_attention"; "default" where
    all layers share one. max_position_embeddings: tokens, as the config states it.
    original_max_position_embeddings: tokens before scaling; None where nothing is scaled or the
    config does not say. folded_attention_factor: what resrope has multiplied into the weights, if anything.
    """

    model_type: str
    specs: dict[str, RopeSpec]
    max_position_embeddings: int | None = None
    original_max_position_embeddings: int | None = None
    folded_attention_factor: float | None = None


def wide_layers(layers: tuple[str, ...]) -> tuple[str, ...]:
    """The layer types without a sliding window; all where every one has a window."""
    return tuple(layer for layer in layers if layer not in _WINDOWED) or layers


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
    if inner is not None and (not _rotates(config) or _rotates(innermost(inner))):
        return rope_from_config(inner)
    _check_rotates(config)
    model_type = _model_type(config)
    specs = _specs(config)
    recorded = recorded_specs(config)
    if recorded is not None:
        _check_recorded(specs, recorded)
        specs = recorded
    # With several layer types the scaled one, if any, tells the original length.
    record = config.get(KEY) or {}
    originals = [getattr(s.scaling, "original_max_position_embeddings", None) for s in specs.values()]
    return ModelRope(
        model_type=model_type,
        specs=specs,
        max_position_embeddings=_max_position_embeddings(config),
        original_max_position_embeddings=next((n for n in originals if n is not None), None),
        folded_attention_factor=record.get("folded_attention_factor"),
    )


def _specs(config: Mapping[str, Any]) -> dict[str, RopeSpec]:
    """The specs by layer type; where both spellings are there they must give the same tables."""
    new, old = (_mapping(config, name) for name in _SPELLINGS)
    if not (new and old):
        return {layer: _spec(config, layer, given) for layer, given in _by_layer(config, new or old).items()}
    specs = _specs({**config, "rope_scaling": None})
    legacy = _specs({**config, "rope_parameters": None})
    # rope_scaling speaks for the layers without a window alone.
    told = wide_layers(tuple(specs))
    if new != old and not all(k in legacy and _same_table(specs[k], legacy[k]) for k in told):
        raise ValueError("rope_parameters and rope_scaling must not differ; give only one of them")
    return specs


def _check_recorded(stock: dict[str, RopeSpec], recorded: dict[str, RopeSpec]) -> None:
    """Raise ValueError unless stock loaders get the recorded tables, to float32's last places."""
    for layer in {**stock, **recorded}:
        if layer not in stock or layer not in recorded or not _same_table(stock[layer], recorded[layer]):
            raise ValueError(
                f"the config's rope parameters and its {KEY} key describe different tables ({layer}): "
                f"one of them was edited, delete the {KEY} key to keep the rope parameters"
            )


def _same_table(one: RopeSpec, other: RopeSpec) -> bool:
    a, b = frequencies(one), frequencies(other)
    pairs = [*zip(a.inv_freq, b.inv_freq, strict=False), (a.attention_factor, b.attention_factor)]
    return len(a.inv_freq) == len(b.inv_freq) and all(math.isclose(x, y, rel_tol=1e-6) for x, y in pairs)


def innermost(config: M) -> M:
    """The text part of a multimodal config, itself where there is none."""
    for key in _INNER:
        if isinstance(config.get(key), Mapping):
            return innermost(config[key])
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


def _mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping or null, got {value!r}")
    return value


def _by_layer(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The RoPE parameters by layer type; a layer type that is null does not rotate."""
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
        resonance=is_resonant(given),
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
