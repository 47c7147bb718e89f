"""Frozen dataclasses to plain dictionaries and back; a key nobody reads is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON types (tuples become lists)."""
    values = {f.name: getattr(instance, f.name) for f in fields(instance)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_plain(cls: type[T], data: object) -> T:
    """An instance of the dataclass ``cls`` from ``data``.

    Raises ValueError on anything that is not a mapping, on unknown keys and on missing ones.
    """
    name = cls.__name__
    if not isinstance(data, Mapping):
        raise ValueError(f"{name} must be given as a mapping of its fields, got {data!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    required = [k for k, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    unknown = sorted(str(k) for k in data if k not in known)
    missing = [k for k in required if k not in data]
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(unknown)}; it takes {', '.join(known)}")
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}, got {', '.join(data) or 'nothing'}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
