"""What a table of frequencies is computed from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from resrope.spec import check
from resrope.spec.scaling import (
    DynamicNTK,
    LongRope,
    NTKAware,
    Proportional,
    Scaling,
    at_length,
    scaling_from_dict,
    scaling_to_dict,
)
from resrope.spec.serial import from_plain


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSpec:
    """A rotary position embedding: head size, base, scaling, and whether wavelengths are integers.

    head_dim: dimensions of one attention head. rope_theta: the rotary base b of Eq. 1.
    partial_rotary_factor: share of head_dim that is rotated, 0 < share <= 1. scaling: how the
    frequencies are stretched, None for plain RoPE. resonance: round every wavelength to an integer
    after scaling (Algorithm 1). Raises ValueError when a field, or their combination, has no table.
    """

    head_dim: int
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 1.0
    scaling: Scaling | None = None
    resonance: bool = False

    def __post_init__(self) -> None:
        check.integer("head_dim", self.head_dim, 2, "even: features are pairs", 65_536)
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (features are pairs), got {self.head_dim}")
        check.number("rope_theta", self.rope_theta, 1, "the rotary base", strict=True)
        check.number("partial_rotary_factor", self.partial_rotary_factor, 0, "share of head_dim", strict=True)
        if self.partial_rotary_factor > 1:
            raise ValueError(
                f"partial_rotary_factor must be <= 1 (share of head_dim), got {self.partial_rotary_factor}"
            )
        check.boolean("resonance", self.resonance)
        if self.scaling is not None and not isinstance(self.scaling, Scaling):
            raise ValueError(f"scaling must be one of resrope's scalings or None, got {self.scaling!r}")
        self._check_rotary_dim()

    def _check_rotary_dim(self) -> None:
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(
                f"head_dim · partial_rotary_factor must give an even number of rotated dimensions >= 2, "
                f"got {self.head_dim} · {self.partial_rotary_factor} = {self.rotary_dim}"
            )
        if isinstance(self.scaling, NTKAware | DynamicNTK) and self.rotary_dim < 4:
            raise ValueError(f"NTK scaling needs at least 4 rotated dimensions, got {self.rotary_dim}")
        if isinstance(self.scaling, LongRope):
            for name in ("short_factor", "long_factor"):
                if len(getattr(self.scaling, name)) != self.rotary_dim // 2:
                    raise ValueError(
                        f"{name} must hold rotary_dim/2 = {self.rotary_dim // 2} numbers, "
                        f"got {len(getattr(self.scaling, name))}"
                    )

    @property
    def rotary_dim(self) -> int:
        """Dimensions that the table covers; head_dim but for partial rotation."""
        if isinstance(self.scaling, Proportional):
            return self.head_dim
        return int(self.head_dim * self.partial_rotary_factor)

    def at_length(self, seq_len: int) -> RopeSpec:
        """This spec for a sequence of ``seq_len`` tokens; itself where the length plays no part."""
        scaling = at_length(self.scaling, seq_len)
        return self if scaling is self.scaling else replace(self, scaling=scaling)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; ``RopeSpec.from_dict`` reads it back."""
        return {
            "head_dim": self.head_dim,
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": self.partial_rotary_factor,
            "scaling": None if self.scaling is None else scaling_to_dict(self.scaling),
            "resonance": self.resonance,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RopeSpec:
        """Inverse of ``to_dict``. Raises ValueError on unknown or missing keys."""
        if isinstance(data, dict) and data.get("scaling") is not None:
            data = {**data, "scaling": scaling_from_dict(data["scaling"])}
        return from_plain(cls, data)

    def to_json(self) -> str:
        """The dictionary as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> RopeSpec:
        """Inverse of ``to_json``. Raises ValueError on text that is not JSON, unknown or missing keys."""
        return cls.from_dict(json.loads(text))
