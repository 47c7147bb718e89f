"""The result of a fine-tuning as a folder: whole, with its table, read back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from resrope.files import beside
from resrope.finetune.adapters import merged
from resrope.finetune.recipe import Recipe
from resrope.finetune.sharding import whole_weights
from resrope.finetune.source import config_of, identity
from resrope.models.extension import Extension
from resrope.models.load import settle
from resrope.models.verify import verify

MODEL, ADAPTER = "model", "adapter"


def save_result(
    trainer: Any, recipe: Recipe, source: str, tokenizer: Any, out: Path, done: Extension, *, began: str
) -> dict[str, str | None]:
    """Write the trained model to ``out``/model, and LoRA's own weights to ``out``/adapter; verify the model.

    Every process must call it: sharded weights come together first. LoRA is added to the source's weights in
    full precision. Weights are saved in the dtype that the source has. Returns what every engine would object
    to, None where it would rotate with the right table. began: the source's ``identity`` when training began.
    Raises ValueError when this transformers would not, and when LoRA's source is another one by now.
    """
    state: Any = whole_weights(trainer)
    if not trainer.accelerator.is_main_process:
        trainer.accelerator.wait_for_everyone()
        return {}
    model: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if recipe.tuning != "full":
        _write(out / ADAPTER, lambda folder: model.save_pretrained(str(folder), state_dict=state))
        if identity(source) != began:
            raise ValueError(
                f"{source} has other weights than when training began: {out / ADAPTER} "
                "is what was trained, and belongs to the earlier ones"
            )
        model, state = merged(source, out / ADAPTER, done), None
    dtype = _source_dtype(source)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in (state or model.state_dict()).items()}
    model.config.dtype = dtype
    model.config.use_cache = True

    def write(folder: Path) -> None:
        model.save_pretrained(str(folder), state_dict=state)
        tokenizer.save_pretrained(str(folder))
        settle(folder, model)

    _write(out / MODEL, write)
    trainer.accelerator.wait_for_everyone()
    return {check.engine: check.objection for check in verify(out / MODEL).checks}


def _write(folder: Path, write: Any) -> None:
    """A folder that is there whole or not at all; one of an earlier attempt goes."""
    partly = beside(folder)
    try:
        write(partly)
        shutil.rmtree(folder, ignore_errors=True)
        partly.rename(folder)
    finally:
        shutil.rmtree(partly, ignore_errors=True)


def _source_dtype(source: str) -> torch.dtype:
    """Of the weights as they were given; what a GGUF file is dequantised to is float32."""
    dtype = getattr(config_of(source), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
