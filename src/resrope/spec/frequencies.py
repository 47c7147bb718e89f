"""From a spec to its table: rotary_dim/2 frequencies in float64 and one attention factor."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from resrope.spec import check
from resrope.spec.ropespec import RopeSpec
from resrope.spec.scaling import (
    AdjustedBase,
    DynamicNTK,
    Linear,
    Llama3,
    LongRope,
    NTKAware,
    Proportional,
    Yarn,
)
from resrope.spec.serial import from_plain, to_plain

Vector = tuple[float, ...]
# Radians per token; 2π divided by less overflows.
_SMALLEST = 1e-300


@dataclass(frozen=True, kw_only=True, slots=True)
class Frequencies:
    """A table of rotary frequencies: all that a model needs to know of a RoPE method.

    inv_freq: θ_j in radians per token, length rotary_dim/2. attention_factor: multiplies cos and
    sin (1 but for YaRN and LongRoPE). periods: the integer wavelengths λ̃_j in tokens when the table
    is resonant, else None; a feature that does not turn (frequency 0) has period 1.
    """

    inv_freq: Vector
    attention_factor: float = 1.0
    periods: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inv_freq, tuple) or not self.inv_freq:
            raise ValueError(f"inv_freq must hold rotary_dim/2 numbers, got {self.inv_freq!r}")
        if not isinstance(self.periods, tuple | None):
            raise ValueError(f"periods must hold rotary_dim/2 integers or be null, got {self.periods!r}")
        for value in self.inv_freq:
            check.number("every inv_freq", value, 0, "radians per token")
        check.number("attention_factor", self.attention_factor, 0, "multiplies cos and sin", strict=True)
        if self.periods is not None and tuple(_resonant(p, f) for p, f in self._pairs()) != self.inv_freq:
            raise ValueError("periods must be integers with inv_freq = 2π / period, feature by feature")

    def _pairs(self) -> zip[tuple[int, float]]:
        assert self.periods is not None
        if len(self.periods) != len(self.inv_freq):
            raise ValueError(
                f"periods must be as many as inv_freq, got {len(self.periods)} and {len(self.inv_freq)}"
            )
        for period in self.periods:
            check.integer("every period", period, 1, "tokens")
        return zip(self.periods, self.inv_freq, strict=True)

    @property
    def wavelengths(self) -> Vector:
        """λ_j = 2π / θ_j in tokens (Eq. 7); exactly the periods when there are any."""
        if self.periods is not None:
            return tuple(float(p) if f else math.inf for p, f in self._pairs())
        return tuple(math.tau / f if f else math.inf for f in self.inv_freq)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; ``Frequencies.from_dict`` reads it back."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Frequencies:
        """Inverse of ``to_dict``. Raises ValueError on unknown or missing keys."""
        return from_plain(cls, data)

    def to_json(self) -> str:
        """The dictionary as JSON text; float64 survives exactly."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Frequencies:
        """Inverse of ``to_json``. Raises ValueError on text that is not JSON, unknown or missing keys."""
        return cls.from_dict(json.loads(text))


def frequencies(spec: RopeSpec, *, seq_len: int | None = None) -> Frequencies:
    """The table of ``spec``: scaled, then made resonant if the spec asks for it (Algorithm 1).

    seq_len: the length in tokens the table serves, for the methods that depend on it (dynamic NTK,
    LongRoPE); it overrides the scaling's own. Raises ValueError when a wavelength rounds to 0, or when
    a number is too extreme for float64.
    """
    if seq_len is not None:
        spec = spec.at_length(seq_len)
    inv_freq, attention_factor = _within_float64(spec)
    if not spec.resonance:
        return Frequencies(inv_freq=inv_freq, attention_factor=attention_factor)
    periods = tuple(_period(f) for f in inv_freq)
    resonant = tuple(_resonant(p, f) for p, f in zip(periods, inv_freq, strict=True))
    return Frequencies(inv_freq=resonant, attention_factor=attention_factor, periods=periods)


def _period(inv_freq: float) -> int:
    """The nearest integer to the wavelength, from float64: float32 would move some for rope_theta >= 5e5."""
    if inv_freq == 0:
        return 1
    period = round(math.tau / inv_freq)
    if period < 1:
        raise ValueError(f"resonance needs wavelengths above 0.5 tokens, got {math.tau / inv_freq:.3g}")
    return period


def _resonant(period: int, inv_freq: float) -> float:
    return math.tau / period if inv_freq else 0.0


def _within_float64(spec: RopeSpec) -> tuple[Vector, float]:
    """``_scaled``, refusing what overflows and frequencies that underflow to a standstill."""
    try:
        inv_freq, attention_factor = _scaled(spec)
    except (OverflowError, ValueError):
        inv_freq, attention_factor = (0.0,), 1.0
    still = 0.0 if isinstance(spec.scaling, Proportional) else None
    if any(f < _SMALLEST for f in inv_freq if f != still):
        raise ValueError(f"rope_theta and scaling must keep every frequency within float64, got {spec}")
    return inv_freq, attention_factor


def _scaled(spec: RopeSpec) -> tuple[Vector, float]:
    """Scaled frequencies (radians per token) and the attention factor."""
    d, theta, scaling = spec.rotary_dim, spec.rope_theta, spec.scaling
    match scaling:
        case None:
            return _plain(d, theta), 1.0
        case Linear():
            return tuple(f / scaling.factor for f in _plain(d, theta)), 1.0
        case AdjustedBase():
            return _plain(d, scaling.rope_theta), 1.0
        case NTKAware():
            exponent = 1.0 if scaling.paper_base else d / (d - 2)
            return _plain(d, theta * scaling.factor**exponent), 1.0
        case DynamicNTK():
            return _plain(d, theta * _dynamic_stretch(scaling) ** (d / (d - 2))), 1.0
        case Yarn():
            return _yarn(scaling, d, theta), _yarn_attention_factor(scaling)
        case Llama3():
            return tuple(_llama3(scaling, f) for f in _plain(d, theta)), 1.0
        case LongRope():
            return _longrope(scaling, d, theta), _longrope_attention_factor(scaling)
        case Proportional():
            turning = int(spec.partial_rotary_factor * d // 2)
            return tuple(
                f / scaling.factor if j < turning else 0.0 for j, f in enumerate(_plain(d, theta))
            ), 1.0
        case _:
            return _never(scaling)


def _plain(rotary_dim: int, rope_theta: float) -> Vector:
    """θ_j = b^(-2j/d) (Eq. 1)."""
    return tuple(rope_theta ** (-2 * j / rotary_dim) for j in range(rotary_dim // 2))


def _promised_length(scaling: DynamicNTK | LongRope) -> float:
    return scaling.seq_len or scaling.factor * scaling.original_max_position_embeddings


def _dynamic_stretch(scaling: DynamicNTK) -> float:
    ratio = max(1.0, _promised_length(scaling) / scaling.original_max_position_embeddings)
    return scaling.factor * ratio - (scaling.factor - 1)


def _yarn(yarn: Yarn, rotary_dim: int, rope_theta: float) -> Vector:
    keep = _yarn_keep_by_turns if yarn.ramp == "turns" else _yarn_keep_by_index
    plain = _plain(rotary_dim, rope_theta)
    gammas = keep(yarn, plain, rotary_dim, rope_theta)
    s = yarn.factor
    if yarn.blend == "wavelength":
        return tuple(f / (s + g * (1 - s)) for f, g in zip(plain, gammas, strict=True))
    return tuple(f / s + g * (f - f / s) for f, g in zip(plain, gammas, strict=True))


def _yarn_keep_by_turns(yarn: Yarn, plain: Vector, rotary_dim: int, rope_theta: float) -> Vector:
    """γ_j of Section 3.3: linear in L/λ_j between beta_slow and beta_fast."""
    turns = (yarn.original_max_position_embeddings * f / math.tau for f in plain)
    return tuple(_clamp((t - yarn.beta_slow) / (yarn.beta_fast - yarn.beta_slow)) for t in turns)


def _yarn_keep_by_index(yarn: Yarn, plain: Vector, rotary_dim: int, rope_theta: float) -> Vector:
    """1 minus the ramp in the feature index between the indices that turn beta_fast and beta_slow times."""

    def index_turning(times: float) -> float:
        length = yarn.original_max_position_embeddings
        return rotary_dim * math.log(length / (times * math.tau)) / (2 * math.log(rope_theta))

    low, high = index_turning(yarn.beta_fast), index_turning(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    # Every engine bounds high by rotary_dim - 1, not by the last feature index, and parts equal bounds.
    low, high = max(low, 0), min(high, rotary_dim - 1)
    high = high + 0.001 if low == high else high
    return tuple(1 - _clamp((j - low) / (high - low)) for j in range(len(plain)))


def _yarn_attention_factor(yarn: Yarn) -> float:
    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(yarn.factor) + 1.0

    if yarn.attention_factor is not None:
        return yarn.attention_factor
    if yarn.mscale and yarn.mscale_all_dim:
        return temperature(yarn.mscale) / temperature(yarn.mscale_all_dim)
    return temperature(1.0)


def _llama3(llama3: Llama3, inv_freq: float) -> float:
    turns = llama3.original_max_position_embeddings * inv_freq / math.tau
    low, high = llama3.low_freq_factor, llama3.high_freq_factor
    smooth = _clamp((turns - low) / (high - low))
    stretched = inv_freq / llama3.factor
    return stretched + smooth * (inv_freq - stretched)


def _longrope(longrope: LongRope, rotary_dim: int, rope_theta: float) -> Vector:
    is_long = _promised_length(longrope) > longrope.original_max_position_embeddings
    factors = longrope.long_factor if is_long else longrope.short_factor
    return tuple(f / s for f, s in zip(_plain(rotary_dim, rope_theta), factors, strict=True))


def _longrope_attention_factor(longrope: LongRope) -> float:
    if longrope.attention_factor is not None:
        return longrope.attention_factor
    return math.sqrt(1 + math.log(longrope.factor) / math.log(longrope.original_max_position_embeddings))


def _never(value: NoReturn) -> NoReturn:
    """typing.assert_never, which Python 3.10 lacks: the type checker proves it unreachable."""
    raise AssertionError(f"unhandled {value!r}")


def _clamp(x: float) -> float:
    return min(max(x, 0.0), 1.0)
