"""FSDP where accelerate leaves it out: between processes on CPUs it would train copies, and say nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from torch.distributed.fsdp import MixedPrecisionPolicy

from resrope.finetune.recipe import Recipe


@contextmanager
def sharding_on_cpus() -> Iterator[None]:
    """Within it, an Accelerator between CPUs that is asked for FSDP has it, as one between GPUs would."""
    plain = AcceleratorState.__init__

    def init(state: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        _keep_the_loss(fsdp_plugin, kwargs.get("mixed_precision"))
        plain(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            if state.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(state.mixed_precision)
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init
    try:
        yield
    finally:
        AcceleratorState.__init__ = plain


def _keep_the_loss(plugin: Any, mixed_precision: str | None) -> None:
    """FSDP2 in bfloat16 without rounding what modules give out, one of which is the loss, and gradients."""
    if plugin is not None and plugin.fsdp_version == 2 and mixed_precision == "bf16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


def launched_for(kind: str) -> bool:
    """Whether `accelerate launch` started this process for ``FSDP`` or ``DEEPSPEED``."""
    return os.environ.get(f"ACCELERATE_USE_{kind}", "false") == "true"


def check_launch(recipe: Recipe) -> None:
    """Raise ValueError for weights of 4 bits that a launcher would have split: nothing here splits them."""
    split = next((k for k in ("FSDP", "DEEPSPEED") if launched_for(k)), None)
    if recipe.tuning == "qlora" and split is not None:
        raise ValueError(
            f"qlora must be launched with copies of the model (recipes/accelerate/copies.yaml), got {split}: "
            "weights of 4 bits are not split"
        )


def kind(trainer: Any) -> str:
    """How the processes of a run share it: ``one process``, ``copies``, ``FSDP`` or ``DeepSpeed ZeRO-3``."""
    state = trainer.accelerator.state
    if state.deepspeed_plugin is not None:
        return f"DeepSpeed ZeRO-{state.deepspeed_plugin.zero_stage}"
    if getattr(state, "fsdp_plugin", None) is not None:
        return "FSDP"
    return "one process" if state.num_processes == 1 else "copies"


def whole_weights(trainer: Any) -> dict[str, Any]:
    """All weights of the trained model by name, on the main process; every process must call it.

    DeepSpeed in bfloat16 trains float32 weights and computes with rounded copies: the first are meant.
    """
    accelerator = trainer.accelerator
    if getattr(accelerator.state, "fsdp_plugin", None) is not None:
        accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    made: dict[str, Any] = accelerator.get_state_dict(trainer.model_wrapped)
    if accelerator.state.deepspeed_plugin is not None:
        from deepspeed.utils import safe_get_full_fp32_param

        for name, weight in accelerator.unwrap_model(trainer.model_wrapped).named_parameters():
            whole = safe_get_full_fp32_param(weight) if weight.requires_grad else None
            if whole is not None and accelerator.is_main_process:
                shape = getattr(weight, "ds_shape", weight.shape)  # ZeRO-3 empties what it has split
                made[name] = whole.to("cpu", copy=True).view(shape)
    return made
