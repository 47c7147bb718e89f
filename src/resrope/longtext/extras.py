"""Packages of resrope's extras, which a plain installation lacks."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str, what: str, *, among: str = "longtext") -> Any:
    """A package of the extra ``among``. Raises ImportError that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module}: pip install 'resrope[{among}]'") from error
