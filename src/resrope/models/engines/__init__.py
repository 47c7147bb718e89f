"""What each stock engine really reads from a config, and where that differs from what the config says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resrope.models.engines import llamacpp, mlx, sglang, transformers, transformers4, vllm
from resrope.models.engines.reading import Reading

ENGINES: dict[str, Callable[[Mapping[str, Any]], Reading]] = {
    transformers.ENGINE: transformers.read,
    transformers4.ENGINE: transformers4.read,
    vllm.ENGINE: vllm.read,
    sglang.ENGINE: sglang.read,
    mlx.ENGINE: mlx.read,
    llamacpp.ENGINE: llamacpp.read,
}


def readings(config: Mapping[str, Any]) -> dict[str, Reading]:
    """What every engine makes of ``config``, by engine. Imports torch."""
    return {name: read(config) for name, read in ENGINES.items()}


__all__ = [
    "ENGINES",
    "Reading",
    "llamacpp",
    "mlx",
    "readings",
    "sglang",
    "transformers",
    "transformers4",
    "vllm",
]
