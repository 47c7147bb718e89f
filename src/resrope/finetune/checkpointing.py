"""Activation checkpointing that keeps what attention gave.

Every layer is computed again in the backward but for its attention (selective checkpointing, arXiv
2205.05198). At long lengths that is most of what would be computed twice, and it takes no more memory than
the checkpoints themselves.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from resrope.finetune.sharding import launched_for

_ATTENTIONS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


def enable(model: Any) -> None:
    """Turn it on for a model of transformers. Attention that is no kernel of torch is computed again too, and
    under DeepSpeed everything: it gathers weights while layers are computed, and torch counts that as theirs.
    """
    there = (getattr(torch.ops.aten, name, None) for name in _ATTENTIONS)
    kept = partial(create_selective_checkpoint_contexts, [op.default for op in there if op is not None])
    selective = {} if launched_for("DEEPSPEED") else {"context_fn": kept}
    # transformers before 5.20 knows the older name alone.
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False, **selective})
