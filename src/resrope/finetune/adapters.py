"""LoRA by peft, on full weights or on weights of 4 bits by bitsandbytes; added to the weights at the end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from resrope.finetune.recipe import Recipe
from resrope.longtext.extras import extra
from resrope.models.apply import put
from resrope.models.extension import Extension
from resrope.models.load import load


def four_bits(dtype: torch.dtype) -> Any:
    """transformers' word for weights in NF4 that compute in ``dtype`` (QLoRA, arXiv 2305.14314)."""
    extra("bitsandbytes", "4-bit weights", among="qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU: they give wrong gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def with_lora(model: Any, recipe: Recipe) -> Any:
    """``model`` with trainable LoRA on every linear layer but the head; the rest is frozen (2106.09685)."""
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
    with _old_words():
        return peft.get_peft_model(model, config)


def merged(source: str, adapter: Path, done: Extension) -> Any:
    """``source`` in float32, rotating as in training, with the products of LoRA added to its weights."""
    peft = extra("peft", "LoRA", among="finetune")
    base: Any = load(source, dtype=torch.float32, exact=False)
    put(base, done, exact=True)
    with _old_words():
        return peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()


@contextmanager
def _old_words() -> Iterator[None]:
    """peft asks transformers in words that are about to go, which nobody here can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
