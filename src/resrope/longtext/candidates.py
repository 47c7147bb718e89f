"""The methods that a measurement compares, as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resrope.models.config import ModelRope
from resrope.models.extension import Extension, extension, trained_length
from resrope.spec import DynamicNTK, Frequencies, frequencies, methods
from resrope.spec.methods import RESONANCE, method_name
from resrope.spec.scaling import SCALINGS

# The model with the tables of its own config.
OWN = "own"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A method to measure. label: how results call it, ``yarn`` or ``yarn:factor=8``."""

    label: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    replace_scaling: bool = False


def candidates(
    labels: Sequence[str], parameters: Mapping[str, Any] | None = None, *, replace_scaling: bool = False
) -> list[Candidate]:
    """``["rope", "yarn:factor=8"]`` as candidates, in that order; without labels, the model as it is.

    A label is a method of the registry or ``own`` (the tables of the model's config), with parameters of
    its own behind a colon. parameters: those of every method that takes them by itself. Raises ValueError on
    an unknown method, a label given twice, a parameter without a value.
    """
    labels = list(labels) or [OWN]
    twice = next((one for i, one in enumerate(labels) if one in labels[:i]), None)
    if twice is not None:
        raise ValueError(f"method {twice} is given twice")
    return [_candidate(label, dict(parameters or {}), replace_scaling) for label in labels]


def _candidate(label: str, shared: dict[str, Any], replace_scaling: bool) -> Candidate:
    name, colon, pairs = label.partition(":")
    if colon and not pairs:
        raise ValueError(f"a method's parameters stand behind its colon as name=number, got {label!r}")
    if name != OWN and name not in methods():
        raise ValueError(f"method must be among {OWN}, {', '.join(methods())}, got {name!r}")
    own = _assignments(label, pairs)
    given = {**_meant(name, shared), **own}
    if name == OWN and given:
        raise ValueError(f"method {OWN} is the model as it is and takes no parameters, got {label}")
    return Candidate(label=label, name=name, parameters=given, replace_scaling=replace_scaling)


def _meant(name: str, shared: dict[str, Any]) -> dict[str, Any]:
    """Of the parameters of all methods those of this one: plain RoPE, resonant or not, has none.

    Dynamic NTK's factor is how fast its base grows, not target over trained length: it is left as it is.
    """
    if name in (OWN, method_name(None, False), method_name(None, True)):
        return {}
    return {k: v for k, v in shared.items() if not (k == "factor" and _is_dynamic(name))}


def _is_dynamic(name: str) -> bool:
    return SCALINGS.get(name.removeprefix(RESONANCE)) is DynamicNTK


def _assignments(label: str, pairs: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for pair in pairs.split(",") if pairs else ():
        name, value = _assignment(label, pair)
        if name in made:
            raise ValueError(f"{name} is given twice in {label}")
        made[name] = value
    return made


def _assignment(label: str, pair: str) -> tuple[str, float | int]:
    name, _, text = pair.partition("=")
    for kind in (int, float):
        try:
            return name, kind(text)
        except ValueError:
            continue
    raise ValueError(f"a method's parameters are name=number with commas between, got {label}")


def placed(candidate: Candidate, rope: ModelRope, target: int | None) -> Extension:
    """``rope`` with the candidate in its place, made to serve ``target`` tokens.

    A factor among its parameters, or in a scaling of this kind that the model has already, counts before
    ``target``; no method serves fewer tokens than the model was trained on. target None: a method that
    needs a factor must have one. Raises ValueError for what ``extension`` refuses.
    """
    if candidate.name == OWN:
        length = rope.max_position_embeddings or target
        if length is None:
            raise ValueError("a length must be given: the config does not tell max_position_embeddings")
        return Extension(method=OWN, before=rope, after=rope, layers=tuple(rope.specs), length=length)
    known = not _is_dynamic(candidate.name) and _has_factor(candidate, rope)
    reach = None if known or target is None else max(target, trained_length(rope) or target)
    return extension(
        rope,
        candidate.name,
        length=reach,
        replace_scaling=candidate.replace_scaling,
        **candidate.parameters,
    )


def _has_factor(candidate: Candidate, rope: ModelRope) -> bool:
    """Whether its factor is settled, by its parameters or by what it keeps of the model's own scaling."""
    kind = SCALINGS.get(candidate.name.removeprefix(RESONANCE))
    own = (type(s.scaling) is kind for s in rope.specs.values() if hasattr(s.scaling, "factor"))
    return "factor" in candidate.parameters or (not candidate.replace_scaling and any(own))


def tables_at(done: Extension, length: int) -> dict[str, Frequencies]:
    """The tables, by layer type, that rotate one sequence of ``length`` tokens.

    One for all lengths, but for dynamic NTK, whose base follows the length (Appendix C.2 of the paper), and
    LongRoPE, which has a second one beyond the original length.
    """
    return {layer: frequencies(spec.at_length(length)) for layer, spec in done.after.specs.items()}
