"""The model that a fine-tuning starts from, before it is loaded: its config, and which weights it has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from resrope.longtext.subject import weights_of
from resrope.models.source import check_there
from resrope.models.verify import local_path


def config_of(path: str | Path) -> Any:
    """The transformers config of a folder, a hub id, a .gguf file or ``smollm2``. Raises ValueError."""
    from transformers import AutoConfig

    check_there(path)
    file = local_path(path)
    try:
        if file.suffix == ".gguf":
            return AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
        return AutoConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no config can be read: {' '.join(str(error).split()):.200}") from None


def identity(path: str | Path) -> str:
    """Another one when the weights of the model at ``path`` are others."""
    return hashlib.sha256(weights_of(path, config_of(path)).encode()).hexdigest()[:16]
