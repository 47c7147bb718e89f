"""transformers' RoPE parameters to resrope's scalings, with transformers' defaults for what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resrope.spec import DynamicNTK, Linear, Llama3, LongRope, NTKAware, Proportional, Scaling, Yarn, check

# Rope types that ``resrope.register`` adds to transformers: every scaling with Resonance on top, and ntk.
RESONANCE = "resonance"
# vLLM's and SGLang's spelling of attention_factor.
_MSCALES = ("short_mscale", "long_mscale")
_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "ntk": ("factor", "paper_base"),
    "dynamic": ("factor",),
    "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    # DeepSeek's attention reads mscale_all_dim for its softmax, whatever the type.
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor", "mscale_all_dim", *_MSCALES),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": ("factor",),
}
# Parameters that transformers' own types do not know.
_ONLY_RESONANT: dict[str, tuple[str, ...]] = {"yarn": ("ramp", "blend"), "dynamic": ("seq_len",)}
_ALIASES = {"su": "longrope", "mrope": "default"}
_READ = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
# mrope_* say which feature serves which axis of an image, llama_4_scaling_beta scales queries.
WITHOUT_INFLUENCE = ("mrope_section", "mrope_interleaved", "llama_4_scaling_beta")
_IGNORED = ("max_position_embeddings", "finetuned")
_COMMON = ("rope_type", "type", *_READ, *WITHOUT_INFLUENCE, *_IGNORED)


def scaling_from_parameters(
    given: Mapping[str, Any], *, nested: bool, max_length: int | None, outer_original: int | None
) -> Scaling | None:
    """The scaling that ``given`` (rope_parameters or rope_scaling, without nulls) describes; None for plain.

    nested: the parameters are those of one layer type. max_length: the config's
    max_position_embeddings; outer_original: its original_max_position_embeddings, which as in
    transformers goes before that of the parameters unless they are nested. Raises ValueError on an
    unknown type, an unknown key or a missing one. Whether the type is a resonant one, ``is_resonant`` tells.
    """
    rope_type = _rope_type(given)
    keys = _KEYS[rope_type] + _ONLY_RESONANT.get(rope_type, ())
    values = {k: given[k] for k in keys if k in given}
    original = None if nested else outer_original
    original = given.get("original_max_position_embeddings", max_length) if original is None else original
    match rope_type:
        case "default":
            return None
        case "linear":
            return Linear(factor=_needed(values, "factor", rope_type))
        case "ntk":
            _needed(values, "factor", rope_type)
            return NTKAware(**values)
        case "proportional":
            return Proportional(**values)
        case "dynamic":
            # transformers 5 takes the config's max_position_embeddings for the original length, always.
            _needed(values, "factor", rope_type)
            return DynamicNTK(original_max_position_embeddings=_length(max_length, rope_type), **values)
        case "llama3":
            for key in _KEYS[rope_type]:
                _needed(values, key, rope_type)
            return Llama3(original_max_position_embeddings=_length(original, rope_type), **values)
        case "longrope":
            return _longrope(values, original, max_length)
        case _:
            return _yarn(values, original, max_length)


def is_resonant(given: Mapping[str, Any]) -> bool:
    """Whether the rope type is one of resrope's resonant ones: ``resonance`` or ``resonance_…``."""
    return _spelled_type(given)[1]


def known_types() -> tuple[str, ...]:
    """Every rope type that is read, transformers' and resrope's."""
    return (*_KEYS, RESONANCE, *(f"{RESONANCE}_{name}" for name in _KEYS if name != "default"))


def _spelled_type(given: Mapping[str, Any]) -> tuple[str, bool]:
    """The rope type without resrope's prefix, and whether it had one."""
    rope_type = given.get("rope_type", given.get("type", "default"))
    rope_type = _ALIASES.get(rope_type, rope_type) if isinstance(rope_type, str) else rope_type
    if not isinstance(rope_type, str) or rope_type not in known_types():
        accepted = ", ".join((*known_types(), *_ALIASES))
        raise ValueError(f"rope_type must be one of {accepted}, got {rope_type!r}")
    if rope_type == RESONANCE:
        return "default", True
    return rope_type.removeprefix(f"{RESONANCE}_"), rope_type.startswith(f"{RESONANCE}_")


def _rope_type(given: Mapping[str, Any]) -> str:
    rope_type, resonant = _spelled_type(given)
    accepted = _KEYS[rope_type] + (_ONLY_RESONANT.get(rope_type, ()) if resonant else ())
    unknown = sorted(str(k) for k in given if k not in _COMMON and k not in accepted)
    if unknown:
        raise ValueError(
            f"rope_type {rope_type} does not take {', '.join(unknown)}; it takes "
            f"{', '.join((*accepted, *_READ))}"
        )
    return rope_type


def _yarn(values: dict[str, Any], original: object, max_length: int | None) -> Yarn:
    length = _length(original, "yarn")
    if "factor" not in values:
        values = {**values, "factor": _length(max_length, "yarn") / length}
    # 0 means the default to transformers, which writes `beta_fast or 32`.
    values = {k: v for k, v in values.items() if k not in ("beta_fast", "beta_slow") or v}
    return Yarn(original_max_position_embeddings=length, **values)


def _longrope(values: dict[str, Any], original: object, max_length: int | None) -> LongRope:
    length = _length(original, "longrope")
    for key in ("short_factor", "long_factor"):
        _needed(values, key, "longrope")
    if "factor" not in values:
        # Below 1 the ratio has no influence in transformers either: the attention factor is 1.
        values = {**values, "factor": max(1.0, _length(max_length, "longrope") / length)}
    values.pop("mscale_all_dim", None)
    for name in _MSCALES:
        if values.pop(name, values.get("attention_factor")) != values.get("attention_factor"):
            raise ValueError(f"{name} must equal attention_factor, which other loaders read instead")
    return LongRope(original_max_position_embeddings=length, **values)


def _needed(values: Mapping[str, Any], key: str, rope_type: str) -> Any:
    if key not in values:
        raise ValueError(f"rope_type {rope_type} needs {key}, got {', '.join(values) or 'nothing'}")
    return values[key]


def _length(value: object, rope_type: str) -> int:
    if value is None:
        raise ValueError(
            f"rope_type {rope_type} needs max_position_embeddings or "
            "original_max_position_embeddings, got neither"
        )
    check.integer("original_max_position_embeddings", value, 1, "tokens the model was trained on")
    assert isinstance(value, int)
    return value
