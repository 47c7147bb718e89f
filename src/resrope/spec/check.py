"""Checks that name the field, what is accepted and what was given."""

from __future__ import annotations

import sys

# Larger integers are not exact in float64, in which all tables are computed.
_LARGEST = 2**53


def number(name: str, value: object, minimum: float, meaning: str, *, strict: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number >= ``minimum`` (> with ``strict``)."""
    accepted = f"a finite number {'>' if strict else '>='} {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} must be {accepted} ({meaning}), got {value!r}")
    if value < minimum or (strict and value == minimum):
        raise ValueError(f"{name} must be {accepted} ({meaning}), got {value!r}")


def integer(name: str, value: object, minimum: int, meaning: str, maximum: int = _LARGEST) -> None:
    """Raise ValueError unless ``value`` is an int from ``minimum`` to ``maximum`` (2^53 at the most)."""
    accepted = f"an integer >= {minimum}"
    if isinstance(value, int) and value > maximum:
        accepted += f" and <= {maximum}"
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ValueError(f"{name} must be {accepted} ({meaning}), got {value!r}")


def boolean(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``accepted``."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")
