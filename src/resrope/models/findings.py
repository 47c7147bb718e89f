"""What can be wrong with a config's rotary parameters: one small check each."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from resrope.models import defaults
from resrope.models.config import ModelRope, rope_from_config
from resrope.models.engines import mlx, transformers, transformers4
from resrope.models.engines.reading import layers_of, model_type, nested, parameters, spelled_type
from resrope.models.engines.transformers import BY_LAYER
from resrope.spec import DynamicNTK, Frequencies, frequencies

Severity = Literal["error", "warning", "note"]
_THETAS = ("rope_theta", "rotary_emb_base", "global_rope_theta")
_SAME_TYPE = (["longrope", "su"], ["default", "mrope"])
# Radians; below, rounding is lost in the rounding of the activations.
_VISIBLE = 1e-2
_POSITIONS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing, about a model's rotary parameters.

    severity: "error" when some loader gets another table than the config means, without a word; "warning"
    when that depends on the loader or on what was meant; "note" otherwise. code: a short name that does
    not change. message: plain words. fix: the config's fields after the repair, None where none is certain.
    """

    severity: Severity
    code: str
    message: str
    fix: dict[str, Any] | None = None


def config_findings(text: Mapping[str, Any]) -> Iterator[Finding]:
    """What the text part of a config tells by itself."""
    yield from _private_flags(text)
    yield from _type_conflicts(text)
    yield from _missing_theta(text)
    yield from _only_modern(text)
    yield from _flat(text)
    yield from _twice(text)
    yield from _old_spelling(text)
    for part in _parts(text):
        yield from _lengths(text, part)


def _parts(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    both = (parameters(text, "rope_parameters"), parameters(text, "rope_scaling"))
    unique: list[Mapping[str, Any]] = []
    for part in (p for given in both if given for p in layers_of(given)):
        if _key(part) not in [_key(p) for p in unique]:
            unique.append(part)
    return unique


def _key(part: Mapping[str, Any]) -> tuple[Any, ...]:
    return spelled_type(part), part.get("factor"), part.get("original_max_position_embeddings")


def _private_flags(text: Mapping[str, Any]) -> Iterator[Finding]:
    places = {"the config": text, **{f"rope parameters ({spelled_type(p)})": p for p in _parts(text)}}
    for place, given in places.items():
        for key in given:
            if "resonan" in str(key).lower():
                yield Finding(
                    severity="error",
                    code="private-flag",
                    message=f"{key} in {place} is read by no engine: the model runs without it.",
                )
    for part in _parts(text):
        kind = spelled_type(part)
        if isinstance(kind, str) and (kind.startswith("resonance") or kind == "ntk"):
            yield Finding(
                severity="warning",
                code="needs-registration",
                message=f"rope_type {kind} works only after resrope.register(); no stock engine has it.",
            )


def _type_conflicts(text: Mapping[str, Any]) -> Iterator[Finding]:
    for part in _parts(text):
        kinds = [part.get("rope_type"), part.get("type")]
        if None not in kinds and kinds[0] != kinds[1] and sorted(map(str, kinds)) not in _SAME_TYPE:
            yield Finding(
                severity="error",
                code="type-conflict",
                message=f"rope_type is {part['rope_type']} but type is {part['type']}: loaders read either.",
            )


def assumed_thetas(text: Mapping[str, Any]) -> dict[str, float | None]:
    """The base that each loader takes when the config gives none; None where it would not load."""
    kind, full = model_type(text), str(text.get("model_type"))
    five = defaults.ROPE_THETA.get(full) or defaults.LAYER_THETA.get(full, (None, None))[0]
    return {
        transformers.ENGINE: five,
        transformers4.ENGINE: transformers4.class_theta(kind, five),
        mlx.ENGINE: mlx.THETA.get(kind),
    }


def _words(thetas: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'fails' if t is None else f'takes {t:g}'}" for name, t in thetas.items())


def _missing_theta(text: Mapping[str, Any]) -> Iterator[Finding]:
    inside = [p for name in ("rope_parameters", "rope_scaling") for p in layers_of(parameters(text, name))]
    if any(text.get(k) for k in _THETAS) or any(p.get("rope_theta") for p in inside):
        return
    assumed = assumed_thetas(text)
    agree = len(set(assumed.values())) == 1
    how = "the same" if agree else "different ones"
    yield Finding(
        severity="warning" if agree else "error",
        code="missing-theta",
        message=f"rope_theta is missing, and loaders assume {how}: {_words(assumed)}.",
        fix={} if agree else None,
    )


def _only_modern(text: Mapping[str, Any]) -> Iterator[Finding]:
    new = parameters(text, "rope_parameters")
    lost = []
    if any(p.get("rope_theta") for p in layers_of(new)) and not any(text.get(k) for k in _THETAS):
        lost.append("rope_theta")
    if any(spelled_type(p) != "default" for p in layers_of(new)) and not parameters(text, "rope_scaling"):
        lost.append("the scaling")
    if not lost:
        return
    old = {k: v for k, v in assumed_thetas(text).items() if k != transformers.ENGINE}
    instead = f": {_words(old)}" if "rope_theta" in lost else ""
    yield Finding(
        severity="warning",
        code="lost-in-version-4",
        message=(
            f"{' and '.join(lost)} stand in rope_parameters alone, which transformers 4 and most MLX models "
            f"do not read{instead}."
        ),
        fix={},
    )


def _flat(text: Mapping[str, Any]) -> Iterator[Finding]:
    new = parameters(text, "rope_parameters")
    if model_type(text) in BY_LAYER and new and not nested(new):
        yield Finding(
            severity="error",
            code="flat-parameters",
            message=(
                f"transformers 5 wants the rope_parameters of {model_type(text)} models by layer type "
                "(full_attention, sliding_attention) and puts its defaults in place of these flat ones."
            ),
            fix={},
        )


def _twice(text: Mapping[str, Any]) -> Iterator[Finding]:
    new, old = parameters(text, "rope_parameters"), parameters(text, "rope_scaling")
    if not new or not old:
        return
    try:
        rope_from_config(text)
    except ValueError as error:
        if "must not differ" in str(error):
            yield Finding(
                severity="error",
                code="scaling-twice",
                message=(
                    "rope_parameters and rope_scaling describe different tables: transformers 5 takes "
                    "rope_scaling, llama.cpp's converter and vLLM follow it, MLX takes either."
                ),
            )


def _old_spelling(text: Mapping[str, Any]) -> Iterator[Finding]:
    old = parameters(text, "rope_scaling")
    if spelled_type(old) == "default" or "rope_type" in old:
        return
    kind = model_type(text)
    silent = kind in BY_LAYER and not nested(parameters(text, "rope_parameters"))
    who = []
    if silent:
        who.append(f"transformers 5 applies no scaling to {kind} models")
    if kind in transformers4.NEED_ROPE_TYPE:
        who.append(f"transformers 4 refuses {kind} models")
    if who:
        yield Finding(
            severity="error" if silent else "warning",
            code="old-type-key",
            message=f'rope_scaling says "type", not "rope_type": {" and ".join(who)}.',
            fix={},
        )


def _lengths(text: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[Finding]:
    """Lengths that do not fit the factor. llama3 is left out: its factor says nothing of lengths."""
    kind, factor, longest = spelled_type(part), part.get("factor"), text.get("max_position_embeddings")
    inner = part.get("original_max_position_embeddings")
    original = inner if inner is not None else text.get("original_max_position_embeddings")
    numbers = all(isinstance(v, int | float) for v in (factor, longest))
    if kind not in ("yarn", "longrope") or not numbers or not isinstance(original, int | float | None):
        return
    assert factor is not None
    assert longest is not None
    if original is None:
        yield Finding(
            severity="warning",
            code="no-original-length",
            message=(
                f"{kind} with factor {factor:g} gives no original_max_position_embeddings: loaders take "
                f"max_position_embeddings {longest} for it and stretch that to {factor * longest:g}; wrong "
                "where it is the stretched length already."
            ),
        )
    elif factor > 1 and original == longest:
        yield Finding(
            severity="warning",
            code="nothing-stretched",
            message=(
                f"{kind} has factor {factor:g}, but max_position_embeddings is still the original "
                f"{original}: engines cut at {longest} tokens, or stretch once more."
            ),
        )
    elif not math.isclose(factor * original, longest, rel_tol=0.01) and factor != 1:
        yield Finding(
            severity="warning",
            code="lengths-disagree",
            message=(
                f"factor {factor:g} · original_max_position_embeddings {original} = {factor * original:g}, "
                f"but max_position_embeddings is {longest}."
            ),
        )


def table_findings(rope: ModelRope, dtype: object = None) -> Iterator[Finding]:
    """What follows from the tables: rounding at the claimed length, and keys that go stale."""
    longest = rope.max_position_embeddings
    tables = [frequencies(spec) for spec in rope.specs.values()]
    if longest is not None:
        error = max(angle_error(table, longest, _float32) for table in tables)
        if error > _VISIBLE:
            yield Finding(
                severity="note",
                code="float32-angles",
                message=f"at {longest} tokens, float32 angles are wrong by up to {error:.2g} radians.",
            )
    if longest is not None and "bfloat16" in str(dtype):
        error = max(angle_error(table, longest, bfloat16) for table in tables)
        yield Finding(
            severity="warning",
            code="bfloat16-cast",
            message=(
                f"the model is kept in bfloat16: model.to(bfloat16) rounds the frequencies and is wrong "
                f"by up to {error:.2g} radians at {longest} tokens; from_pretrained(dtype=…) does not."
            ),
        )
    scalings = [spec.scaling for spec in rope.specs.values()]
    if any(isinstance(s, DynamicNTK) and s.seq_len is None for s in scalings):
        yield Finding(
            severity="warning",
            code="dynamic-ntk",
            message=(
                "dynamic NTK changes its base as the sequence grows, and keys already cached keep the old "
                "one; engines disagree on it. A fixed method at one length has neither trouble."
            ),
        )


def angle_error(table: Frequencies, length: int, rounded: Any) -> float:
    """Largest error in radians, near ``length``, of float32 angles once ``rounded`` has rounded frequencies.

    Sampled at the last 64 positions; products of two float32 numbers are exact in float64.
    """
    positions = range(max(0, length - _POSITIONS), length)
    pairs = [(rounded(f), f) for f in table.inv_freq]
    return max(abs(_float32(_float32(m) * kept) - m * exact) for m in positions for kept, exact in pairs)


def _float32(value: float) -> float:
    (out,) = struct.unpack("<f", struct.pack("<f", value))
    return float(out)


def bfloat16(value: float) -> float:
    """``value`` rounded to bfloat16, ties to even, by way of float32 as torch does."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    (out,) = struct.unpack("<f", struct.pack("<I", kept))
    return float(out)
