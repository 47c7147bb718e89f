"""`name=value` pairs from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """``["epochs=3", "schedule=constant"]`` -> ``{"epochs": 3, "schedule": "constant"}``.

    Values are JSON where they read as JSON, else text. Raises ValueError on anything without "=" and
    on a name given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"--set takes name=value, got {pair!r}")
        if name in values:
            raise ValueError(f"--set {name} is given twice")
        values[name] = _value(text)
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def names(option: str, given: Sequence[str]) -> list[str]:
    """Names given one by one, with commas, or both; each once, in the order given.

    Raises ValueError when there is none.
    """
    found = list(dict.fromkeys(n for part in given for n in part.split(",") if n))
    if not found:
        raise ValueError(f"{option} takes names with commas between, got {','.join(given)!r}")
    return found


def numbers(option: str, text: str) -> list[int]:
    """Comma-separated integers from 0 to 2^31 - 1. Raises ValueError on anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(p.isascii() and p.isdigit() and len(p) <= 10 and int(p) < 2**31 for p in parts):
        raise ValueError(f"{option} takes integers >= 0 and < 2^31 with commas between, got {text!r}")
    return [int(p) for p in parts]
