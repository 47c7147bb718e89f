"""The methods that a measurement compares, as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resrope.models.config import ModelRope
from resrope.models.extension import Extension, extension, trained_length
from resrope.spec import Frequencies, frequencies, methods
from resrope.spec.methods import method_name

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
    own = dict(_assignment(label, pair) for pair in pairs.split(",") if pair)
    given = {**(shared if _takes_parameters(name) else {}), **own}
    if name == OWN and given:
        raise ValueError(f"method {OWN} is the model as it is and takes no parameters, got {label}")
    return Candidate(label=label, name=name, parameters=given, replace_scaling=replace_scaling)


def _takes_parameters(name: str) -> bool:
    """Whether a parameter for all methods means this one: plain RoPE, resonant or not, has none."""
    return name not in (OWN, method_name(None, False), method_name(None, True))


def _assignment(label: str, pair: str) -> tuple[str, float | int]:
    name, _, text = pair.partition("=")
    for kind in (int, float):
        try:
            return name, kind(text)
        except ValueError:
            continue
    raise ValueError(f"a method's parameters are name=number with commas between, got {label}")


def placed(candidate: Candidate, rope: ModelRope, target: int) -> Extension:
    """``rope`` with the candidate in its place, made to serve ``target`` tokens.

    A factor among its parameters counts before ``target``, and no method serves fewer tokens than the model
    was trained on. Raises ValueError for what ``extension`` refuses.
    """
    if candidate.name == OWN:
        layers = tuple(rope.specs)
        length = max(target, rope.max_position_embeddings or target)
        return Extension(method=OWN, before=rope, after=rope, layers=layers, length=length)
    factor = "factor" in candidate.parameters and not candidate.name.endswith("dynamic-ntk")
    return extension(
        rope,
        candidate.name,
        length=None if factor else max(target, trained_length(rope) or target),
        replace_scaling=candidate.replace_scaling,
        **candidate.parameters,
    )


def tables_at(done: Extension, length: int) -> dict[str, Frequencies]:
    """The tables, by layer type, that rotate one sequence of ``length`` tokens.

    One for all lengths, but for dynamic NTK, whose base follows the length (Appendix C.2 of the paper), and
    LongRoPE, which has a second one beyond the original length.
    """
    return {layer: frequencies(spec.at_length(length)) for layer, spec in done.after.specs.items()}
