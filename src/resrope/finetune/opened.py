"""The model of a fine-tuning: loaded, with its method, its adapters and its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resrope.finetune.head import install
from resrope.finetune.recipe import Recipe
from resrope.longtext.extras import extra
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
    done = unchanged(rope) if recipe.method is None else extension(rope, recipe.method, **recipe.parameters)
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


def open_model(path: str | Path, recipe: Recipe, *, quantised: bool | None = None) -> tuple[Any, Extension]:
    """The model that is trained: exact phases, LoRA where asked for, its loss in chunks; in training mode.

    Fully trained weights are float32; frozen ones have the precision of the arithmetic. quantised: frozen
    weights in 4 bits, by default for qlora. Raises ValueError, OSError, and ImportError without an extra.
    """
    model: Any = load(path, dtype=_dtype(recipe), exact=False, model_kwargs=_loading(recipe, quantised))
    _keep_trainable(model)
    done = placed(model, recipe)
    put(model, done, exact=True)
    install(model, recipe.chunk)
    model.config.use_cache = False
    if recipe.tuning != "full":
        model = _with_lora(model, recipe)
    return model.train(), done


def _dtype(recipe: Recipe) -> torch.dtype:
    frozen = recipe.tuning != "full" and recipe.precision == "bf16"
    return torch.bfloat16 if frozen else torch.float32


def _loading(recipe: Recipe, quantised: bool | None) -> dict[str, Any]:
    given = {} if recipe.attention is None else {"attn_implementation": recipe.attention}
    if not (recipe.tuning == "qlora" if quantised is None else quantised):
        return given
    extra("bitsandbytes", "4-bit weights", among="qlora")
    from transformers import BitsAndBytesConfig

    four = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_dtype(recipe),
    )
    return {**given, "quantization_config": four}


def _keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU: they give wrong gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _with_lora(model: Any, recipe: Recipe) -> Any:
    peft = extra("peft", "LoRA", among="finetune")
    if recipe.tuning == "qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(recipe.seed)
    return peft.get_peft_model(model, config)
