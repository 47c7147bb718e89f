"""The one registry of methods by name: the same in Python, on the command line and in every record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resrope.spec.ropespec import RopeSpec
from resrope.spec.scaling import SCALINGS, Scaling, scaling_name
from resrope.spec.serial import from_plain

PLAIN = "rope"
RESONANCE = "resonance-"


def methods() -> tuple[str, ...]:
    """Every method name: ``rope`` and the scalings, then each with Resonance on top."""
    plain = (PLAIN, *SCALINGS)
    return (*plain, *(RESONANCE + name for name in plain))


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A scaling with or without Resonance, not yet tied to a head size and a base."""

    scaling: Scaling | None = None
    resonance: bool = False

    @property
    def name(self) -> str:
        """The name in the registry."""
        return method_name(self.scaling, self.resonance)

    def spec(
        self, *, head_dim: int, rope_theta: float = 10000.0, partial_rotary_factor: float = 1.0
    ) -> RopeSpec:
        """This method on heads of ``head_dim`` dimensions with rotary base ``rope_theta``."""
        return RopeSpec(
            head_dim=head_dim,
            rope_theta=rope_theta,
            partial_rotary_factor=partial_rotary_factor,
            scaling=self.scaling,
            resonance=self.resonance,
        )


def method(name: str, **parameters: Any) -> Method:
    """The method called ``name`` with its scaling's ``parameters``.

    >>> method("resonance-yarn", factor=8, original_max_position_embeddings=4096).name
    'resonance-yarn'

    Raises ValueError on an unknown name (the message lists what there is) or parameter.
    """
    if name not in methods():
        raise ValueError(f"unknown method {name!r}; there are {', '.join(methods())}")
    resonance = name.startswith(RESONANCE)
    plain = name.removeprefix(RESONANCE)
    if plain == PLAIN:
        if parameters:
            raise ValueError(f"{name} does not take {', '.join(parameters)}; it takes no parameters")
        return Method(resonance=resonance)
    return Method(scaling=from_plain(SCALINGS[plain], parameters), resonance=resonance)


def method_name(scaling: Scaling | None, resonance: bool) -> str:
    """The registry's name for a scaling (None: plain RoPE) with or without Resonance."""
    return (RESONANCE if resonance else "") + (PLAIN if scaling is None else scaling_name(scaling))
