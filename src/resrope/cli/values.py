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


def names(given: Sequence[str] | None) -> list[str]:
    """Names given one by one, with commas, or both; each once, in the order given."""
    return list(dict.fromkeys(n for part in given or [] for n in part.split(",") if n))


def numbers(option: str, text: str) -> list[int]:
    """Comma-separated integers >= 0. Raises ValueError on anything else."""
    parts = text.split(",")
    if not all(p.strip().isascii() and p.strip().isdigit() for p in parts):
        raise ValueError(f"{option} takes integers >= 0 with commas between, got {text!r}")
    return [int(p) for p in parts]
