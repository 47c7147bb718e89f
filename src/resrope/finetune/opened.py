"""The model of a fine-tuning: loaded, with its method, its adapters and its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resrope.finetune import checkpointing
from resrope.finetune.adapters import four_bits, keep_trainable, with_lora
from resrope.finetune.head import install
from resrope.finetune.recipe import Recipe
from resrope.models.apply import put, rope_of
from resrope.models.extension import Extension, extension, unchanged
from resrope.models.load import load
from resrope.spec import DynamicNTK


def placed(model: Any, recipe: Recipe) -> Extension:
    """The recipe's method on what the config of ``model`` says.

    Raises ValueError for what ``extension`` refuses, for a method whose table depends on the length of the
    text (training at one length would be for one table), and for sequences longer than the tables serve.
    """
    rope = rope_of(model)
    if recipe.method is None:
        done = unchanged(rope)
    else:
        done = extension(rope, recipe.method, replace_scaling=recipe.replace_scaling, **recipe.parameters)
    if not done.fixed_length or any(isinstance(s.scaling, DynamicNTK) for s in done.after.specs.values()):
        raise ValueError(
            f"{done.method} has another table for every length of text: fine-tune with ntk and a factor"
        )
    if recipe.length > done.length:
        raise ValueError(
            f"length must be <= {done.length}, the tokens that the tables serve, got {recipe.length}: "
            "raise --factor"
        )
    return done


def open_model(path: str | Path, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Any, Extension]:
    """The model that is trained: exact phases, checkpointing and LoRA where asked for, its loss in
    chunks; in training mode.

    device: where weights of 4 bits are made, which do not move later. Fully trained weights are float32;
    frozen ones have the precision of the arithmetic, with qlora 4 bits. Raises ValueError, OSError, and
    ImportError without an extra.
    """
    model: Any = load(path, dtype=dtype_of(recipe), exact=False, model_kwargs=_loading(recipe, device))
    keep_trainable(model)
    done = placed(model, recipe)
    put(model, done, exact=True)
    install(model, recipe.chunk)  # reads some tokens where it lies, which FlashAttention cannot on a CPU
    if recipe.attention is not None:
        model.set_attn_implementation(recipe.attention)
    model.config.use_cache = False
    if recipe.checkpointing:
        checkpointing.enable(model)
    if recipe.tuning != "full":
        model = with_lora(model, recipe)
    return model.train(), done


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Of the weights in training."""
    frozen = recipe.tuning != "full" and recipe.precision == "bf16"
    return torch.bfloat16 if frozen else torch.float32


def _loading(recipe: Recipe, device: torch.device | str) -> dict[str, Any]:
    """What transformers' loader is told beside the dtype."""
    if recipe.tuning != "qlora":
        return {}
    return {"quantization_config": four_bits(dtype_of(recipe)), "device_map": {"": str(device)}}
