"""A method put on a model's rotary position embeddings: a pure function of what its config says."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from resrope.models.config import ModelRope, wide_layers
from resrope.spec import DynamicNTK, Frequencies, LongRope, RopeSpec, Scaling, check, frequencies, method
from resrope.spec.methods import RESONANCE, method_name, methods
from resrope.spec.scaling import SCALINGS

_ORIGINAL = "original_max_position_embeddings"
_LONGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """A model's rotary position embeddings before and after a method.

    method: its name in the registry. layers: the layer types that it changes; the others keep their
    table. length: tokens that the new tables serve, the model's new max_position_embeddings.
    """

    method: str
    before: ModelRope
    after: ModelRope
    layers: tuple[str, ...]
    length: int

    def tables(self) -> dict[str, Frequencies]:
        """The new table of every layer type."""
        return {layer: frequencies(spec) for layer, spec in self.after.specs.items()}

    @property
    def fixed_length(self) -> bool:
        """Whether one table serves every length up to ``length``: not so for dynamic NTK left open."""
        scalings = (self.after.specs[layer].scaling for layer in self.layers)
        return not any(isinstance(s, DynamicNTK) and s.seq_len is None for s in scalings)


def extension(
    rope: ModelRope,
    name: str,
    *,
    length: int | None = None,
    layers: tuple[str, ...] | None = None,
    replace_scaling: bool = False,
    **parameters: Any,
) -> Extension:
    """``rope`` with the method ``name`` and its ``parameters`` in place of its own scaling.

    length: tokens the new tables serve; left out, factor · original length, and for methods without a
    factor the model's own. layers: layer types to change; left out, all but those with a sliding
    window where there are others. Parameters that are left out come from the model's own scaling
    where it is of the same kind, and original_max_position_embeddings from the config. Raises
    ValueError when the method would drop or change a scaling that the model already has, unless
    ``replace_scaling``; when factor and length disagree; and on everything ``method`` refuses.
    """
    if name not in methods():
        method(name)  # says which there are
    chosen = _layers(rope, layers)
    given = {k: v for k, v in parameters.items() if v is not None}
    if length is not None:
        check.integer("length", length, 1, "tokens the new table serves")
    if _ORIGINAL in given:
        check.integer(_ORIGINAL, given[_ORIGINAL], 1, "tokens the model was trained on")
    made = {k: _extended(rope, rope.specs[k], name, given, length, replace_scaling) for k in chosen}
    after = {k: made[k][0] if k in made else spec for k, spec in rope.specs.items()}
    _check_not_folded(rope, [made[k][0] for k in chosen])
    reached = max(n for _, n in made.values())
    check.integer("length", reached, 1, "tokens that positions are exact for", _LONGEST)
    original = next((o for k in chosen for o in [getattr(after[k].scaling, _ORIGINAL, None)] if o), None)
    new = replace(
        rope,
        specs=after,
        max_position_embeddings=reached,
        original_max_position_embeddings=original or given.get(_ORIGINAL) or trained_length(rope),
    )
    return Extension(method=name, before=rope, after=new, layers=chosen, length=reached)


def _check_not_folded(rope: ModelRope, specs: list[RopeSpec]) -> None:
    """The new attention factor would come on top of the one in the weights."""
    folded = rope.folded_attention_factor
    if folded is not None and any(frequencies(spec).attention_factor != 1.0 for spec in specs):
        raise ValueError(
            f"the model's weights already hold an attention factor of {folded:g}; "
            "start from the model that it was made from"
        )


def unchanged(rope: ModelRope) -> Extension:
    """The extension that keeps every table of ``rope``.

    Raises ValueError where one table does not serve every length up to max_position_embeddings.
    """
    for spec in rope.specs.values():
        scaling = spec.scaling
        two = isinstance(scaling, LongRope) and scaling.short_factor != scaling.long_factor
        if two or (isinstance(scaling, DynamicNTK) and scaling.seq_len is None):
            raise ValueError(
                f"{method_name(scaling, spec.resonance)} has another table for another length: "
                "give the method and length= the longest text"
            )
    spec = next(iter(rope.specs.values()))
    length = rope.max_position_embeddings
    if length is None:
        raise ValueError("the config does not tell max_position_embeddings")
    name = method_name(spec.scaling, spec.resonance)
    return Extension(
        method=name, before=rope, after=rope, layers=wide_layers(tuple(rope.specs)), length=length
    )


def trained_length(rope: ModelRope) -> int | None:
    """Tokens the model was trained on; None where its config does not tell.

    That is original_max_position_embeddings, and without one max_position_embeddings unless a scaling
    has already multiplied it.
    """
    if rope.original_max_position_embeddings is not None:
        return rope.original_max_position_embeddings
    scaled = any(getattr(s.scaling, "factor", 1.0) != 1.0 for s in rope.specs.values())
    return None if scaled else rope.max_position_embeddings


def _layers(rope: ModelRope, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    if asked is None:
        return wide_layers(tuple(rope.specs))
    if not isinstance(asked, tuple | list):
        raise ValueError(f"layers must be a tuple of layer types, got {asked!r}")
    unknown = [layer for layer in asked if layer not in rope.specs]
    if unknown or not asked:
        raise ValueError(
            f"layers must be among {', '.join(rope.specs)}, got {', '.join(map(str, asked)) or 'none'}"
        )
    return tuple(asked)


def _extended(
    rope: ModelRope,
    spec: RopeSpec,
    name: str,
    given: dict[str, Any],
    length: int | None,
    replace_scaling: bool,
) -> tuple[RopeSpec, int]:
    cls = SCALINGS.get(name.removeprefix(RESONANCE))
    own = spec.scaling
    if not replace_scaling:
        _check_keeps(spec, name, cls, given)
    kept = _fields_of(own) if cls is not None and type(own) is cls and not replace_scaling else {}
    filled = {**kept, **_filled(rope, cls, {**kept, **given}, length), **_own_parameters(cls, given)}
    known = method(name, **filled)
    reached = _reached(rope, known.scaling, own, given, length)
    return replace(spec, scaling=known.scaling, resonance=known.resonance), reached


def _fields_of(scaling: Scaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    values = {f.name: getattr(scaling, f.name) for f in fields(scaling)}
    # The length that a table serves is what is asked for, not a parameter of the method.
    return {k: v for k, v in values.items() if v is not None and k != "seq_len"}


def _own_parameters(cls: type[Scaling] | None, given: dict[str, Any]) -> dict[str, Any]:
    """The given parameters as the method takes them: the original length only where it has one."""
    takes = () if cls is None else tuple(f.name for f in fields(cls))
    return {k: v for k, v in given.items() if k != _ORIGINAL or k in takes}


def _check_keeps(spec: RopeSpec, name: str, cls: type[Scaling] | None, given: dict[str, Any]) -> None:
    """Raise ValueError where the method would drop or change what the model already has."""
    if spec.scaling is None and not spec.resonance:
        return
    has = method_name(spec.scaling, spec.resonance)
    own = _fields_of(spec.scaling)
    numbers = ", ".join(
        f"{k} {v:g}" for k, v in own.items() if isinstance(v, int | float) and k != "truncate"
    )
    has = f"{has} ({numbers})" if numbers else has
    kept = name if name.startswith(RESONANCE) else RESONANCE + name
    if (type(spec.scaling) is not cls and not (spec.scaling is None and cls is None)) or (
        spec.resonance and name != kept
    ):
        keep = method_name(spec.scaling, True)
        raise ValueError(
            f"the model already has {has}, which {name} would drop: replace it with "
            f"replace_scaling (--replace), or keep it with {keep}"
        )
    for key, value in given.items():
        if key in own and own[key] != value:
            raise ValueError(
                f"the model already has {has}, got {key} {value}: the model's own counts when {key} is "
                "left out, the given one with replace_scaling (--replace)"
            )


def _filled(
    rope: ModelRope, cls: type[Scaling] | None, given: dict[str, Any], length: int | None
) -> dict[str, Any]:
    """What the method takes and nobody gave: the original length, and factor or seq_len from ``length``."""
    takes = set() if cls is None else {f.name for f in fields(cls)}
    filled: dict[str, Any] = {}
    original = given.get(_ORIGINAL) or trained_length(rope)
    if original is None and ("factor" in takes or _ORIGINAL in takes):
        raise ValueError(
            f"{_ORIGINAL} must be given: the config does not tell how many tokens the model was trained on"
        )
    needs = {f.name for f in fields(cls) if f.default is MISSING} if cls is not None else set()
    if "factor" in needs and "factor" not in given and length is None and cls is not DynamicNTK:
        raise ValueError("factor (--factor) or length (--length), the tokens to serve, must be given")
    if _ORIGINAL in takes:
        filled[_ORIGINAL] = original
    if "seq_len" in takes and length is not None:
        filled["seq_len"] = length
    if "factor" in takes and "factor" not in given and (length is not None or cls is DynamicNTK):
        # Dynamic NTK follows the length by itself; its factor is how fast, 1 in arXiv 2403.00071.
        filled["factor"] = 1.0 if cls is DynamicNTK else _ratio(length, original)
    return filled


def _ratio(length: int | None, original: int | None) -> float:
    assert length is not None
    assert original is not None
    if length < original:
        raise ValueError(f"length must be >= {original} (tokens the model was trained on), got {length}")
    return length / original


def _reached(
    rope: ModelRope, scaling: Scaling | None, own: Scaling | None, given: dict[str, Any], length: int | None
) -> int:
    """Tokens the table serves."""
    known = rope.max_position_embeddings
    factor = getattr(scaling, "factor", None)
    if scaling == own and known is not None and length is None:
        return known  # only Resonance is new
    original = getattr(scaling, _ORIGINAL, None) or given.get(_ORIGINAL) or trained_length(rope) or known
    if length is not None:
        if factor is not None and not isinstance(scaling, DynamicNTK):
            _check_agree(length, factor, original)
        return length
    if original is None:
        raise ValueError("length must be given: the config does not tell max_position_embeddings")
    return round(original * (1.0 if factor is None else factor))


def _check_agree(length: int, factor: float, original: int | None) -> None:
    if original is not None and round(factor * original) != length:
        raise ValueError(
            f"factor · {_ORIGINAL} must be length where both are given, "
            f"got {factor:g} · {original} = {factor * original:g} and {length}"
        )
