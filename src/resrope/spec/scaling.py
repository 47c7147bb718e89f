"""One frozen dataclass per way to scale rotary frequencies; their formulas are in frequencies.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from resrope.spec import check
from resrope.spec.serial import from_plain, to_plain

_FACTOR = "target / original length"
_LENGTH = "tokens the model was trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Position interpolation (PI, arXiv 2306.15595): every wavelength times ``factor``."""

    factor: float

    def __post_init__(self) -> None:
        check.number("factor", self.factor, 1, _FACTOR)


@dataclass(frozen=True, kw_only=True, slots=True)
class NTKAware:
    """NTK-aware scaling: a larger rope_theta.

    rope_theta · factor^(d/(d-2)), d = rotary_dim, as in common use (bloc97 2023): the last feature
    is then interpolated by exactly ``factor``. ``paper_base=True`` gives rope_theta · factor, as
    printed in Appendix C.2 of arXiv 2403.00071.
    """

    factor: float
    paper_base: bool = False

    def __post_init__(self) -> None:
        check.number("factor", self.factor, 1, _FACTOR)
        check.boolean("paper_base", self.paper_base)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdjustedBase:
    """Adjusted base frequency (ABF, arXiv 2309.16039): a chosen new ``rope_theta``, as in Code LLaMA."""

    rope_theta: float

    def __post_init__(self) -> None:
        check.number("rope_theta", self.rope_theta, 1, "the new rotary base", strict=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicNTK:
    """Dynamic NTK (emozilla 2023): NTK-aware scaling by the length that is being read.

    rope_theta · (factor · n / L - (factor - 1))^(d/(d-2)) with n = max(seq_len, L) and
    L = original_max_position_embeddings, as transformers defines it. The paper's s = n / L is
    ``factor=1``. ``seq_len`` is the length in tokens the table serves; left out, it is
    factor · L, the length the factor promises.
    """

    factor: float
    original_max_position_embeddings: int
    seq_len: int | None = None

    def __post_init__(self) -> None:
        check.number("factor", self.factor, 1, "how fast the base grows beyond the original length")
        _check_lengths(self.original_max_position_embeddings, self.seq_len)


@dataclass(frozen=True, kw_only=True, slots=True)
class Yarn:
    """NTK-by-parts with attention scaling (YaRN, arXiv 2309.00071; Section 3.3 of the paper).

    Features that turn more than ``beta_fast`` times within L = original_max_position_embeddings
    keep their wavelength, those below ``beta_slow`` turns are stretched by ``factor``, the rest
    lie on a ramp between.

    ramp: "index" is linear in the feature index, as every engine has it, between bounds that
        ``truncate`` rounds outwards to whole indices; "turns" is linear in L/λ, as printed.
    blend: "frequency" mixes the two frequencies (every engine, and the YaRN paper); "wavelength"
        mixes the two wavelengths, λ̂ = (1-γ)sλ + γλ, as printed in arXiv 2403.00071.
    attention_factor: multiplies cos and sin; left out, it is 0.1·ln(factor) + 1, or with both
        ``mscale`` and ``mscale_all_dim`` the ratio of 0.1·mscale·ln(factor) + 1 for the two.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ramp: Literal["index", "turns"] = "index"
    truncate: bool = True
    blend: Literal["frequency", "wavelength"] = "frequency"
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self) -> None:
        check.number("factor", self.factor, 1, _FACTOR)
        check.integer("original_max_position_embeddings", self.original_max_position_embeddings, 1, _LENGTH)
        check.number("beta_slow", self.beta_slow, 0, "turns within the original length", strict=True)
        check.number("beta_fast", self.beta_fast, self.beta_slow, "above beta_slow", strict=True)
        check.one_of("ramp", self.ramp, ("index", "turns"))
        check.one_of("blend", self.blend, ("frequency", "wavelength"))
        check.boolean("truncate", self.truncate)
        _check_attention_factor(self.attention_factor)
        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                check.number(name, getattr(self, name), 0, "weight of ln(factor)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3:
    """Llama 3.1's scaling, by wavelength (L = original_max_position_embeddings).

    Wavelengths above L/low_freq_factor are stretched by ``factor``, those below L/high_freq_factor
    kept; between, the frequency is a mix linear in L/λ.
    """

    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        check.number("factor", self.factor, 1, _FACTOR)
        check.integer("original_max_position_embeddings", self.original_max_position_embeddings, 1, _LENGTH)
        check.number("low_freq_factor", self.low_freq_factor, 0, "turns", strict=True)
        check.number(
            "high_freq_factor",
            self.high_freq_factor,
            self.low_freq_factor,
            "above low_freq_factor",
            strict=True,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LongRope:
    """LongRoPE (arXiv 2402.13753): a searched factor for every wavelength.

    ``long_factor`` serves sequences longer than original_max_position_embeddings, ``short_factor``
    the others; each holds rotary_dim/2 numbers. ``seq_len`` is the length in tokens the table
    serves; left out, it is factor · original_max_position_embeddings. ``attention_factor`` left out
    is sqrt(1 + ln(factor) / ln(original_max_position_embeddings)).
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    seq_len: int | None = None

    def __post_init__(self) -> None:
        for name in ("short_factor", "long_factor"):
            values = getattr(self, name)
            if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
                raise ValueError(f"{name} must be a list of rotary_dim/2 numbers > 0, got {values!r}")
            object.__setattr__(self, name, tuple(values))
            for value in getattr(self, name):
                check.number(f"every {name}", value, 0, "multiplies a wavelength", strict=True)
        check.number("factor", self.factor, 1, _FACTOR)
        check.integer("original_max_position_embeddings", self.original_max_position_embeddings, 2, _LENGTH)
        _check_lengths(self.original_max_position_embeddings, self.seq_len)
        _check_attention_factor(self.attention_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportional:
    """Proportional RoPE, as in Gemma 4: only the first partial_rotary_factor of the features turn.

    Unlike plain partial rotation the exponents still run over the whole head_dim and the table
    still has head_dim/2 entries; those that do not turn have frequency 0.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check.number("factor", self.factor, 1, _FACTOR)


Scaling = Linear | NTKAware | AdjustedBase | DynamicNTK | Yarn | Llama3 | LongRope | Proportional

SCALINGS: dict[str, type[Scaling]] = {
    "linear": Linear,
    "abf": AdjustedBase,
    "ntk": NTKAware,
    "dynamic-ntk": DynamicNTK,
    "yarn": Yarn,
    "llama3": Llama3,
    "longrope": LongRope,
    "proportional": Proportional,
}


def scaling_name(scaling: Scaling) -> str:
    """The name of a scaling, the same everywhere."""
    return next(name for name, cls in SCALINGS.items() if type(scaling) is cls)


def scaling_to_dict(scaling: Scaling) -> dict[str, Any]:
    """``{"name": …, field: value, …}`` in JSON types."""
    return {"name": scaling_name(scaling), **to_plain(scaling)}


def scaling_from_dict(data: object) -> Scaling:
    """Inverse of ``scaling_to_dict``. Raises ValueError on unknown names or keys."""
    if not isinstance(data, Mapping) or data.get("name") not in tuple(SCALINGS):
        raise ValueError(f"scaling must have a name among {', '.join(SCALINGS)}, got {data!r}")
    return from_plain(SCALINGS[data["name"]], {k: v for k, v in data.items() if k != "name"})


def at_length(scaling: Scaling | None, seq_len: int) -> Scaling | None:
    """``scaling`` for a sequence of ``seq_len`` tokens; only DynamicNTK and LongRope depend on it."""
    return replace(scaling, seq_len=seq_len) if isinstance(scaling, DynamicNTK | LongRope) else scaling


def _check_lengths(original: int, seq_len: int | None) -> None:
    check.integer("original_max_position_embeddings", original, 1, _LENGTH)
    if seq_len is not None:
        check.integer("seq_len", seq_len, 1, "tokens the table serves")


def _check_attention_factor(value: float | None) -> None:
    if value is not None:
        check.number("attention_factor", value, 0, "multiplies cos and sin", strict=True)
