"""The loss of a long sequence without its logits: the head's product and softmax in chunks of positions.

Logits [positions, vocabulary] are the largest thing a long step would hold: at 32768 tokens and 32000 words
4 GiB in float32, and cross entropy makes two more of that size. Here every chunk's gradient is taken while
its logits are there, so that nothing of them is kept and no product is done twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512
IGNORED = -100


def summed_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """Sum over positions of the cross entropy of ``hidden @ weight.T + bias``, in nats; float32, a scalar.

    hidden: [positions, width]; weight: [vocabulary, width]; bias: [vocabulary]; targets: [positions] token
    ids, IGNORED where a position does not count. chunk: positions whose logits are there at a time.
    Differentiable once, in hidden, weight and bias.
    """
    total: Tensor = _SummedLoss.apply(hidden, weight, bias, targets, chunk, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total


class _SummedLoss(torch.autograd.Function):
    """Gradients are made in the forward, where the logits are; the backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int, kept: bool
    ) -> Tensor:
        # Tensors want gradients under no_grad too.
        wanted = [kept and needs for needs in ctx.needs_input_grad[:3]]
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        # In bfloat16 the sum over chunks would lose the small ones.
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows, goal = hidden[start : start + chunk], targets[start : start + chunk]
            logits = F.linear(rows, weight, bias).float()
            counts = goal != IGNORED
            goal = goal.where(counts, 0)[:, None]
            norm = logits.logsumexp(-1, keepdim=True)
            total += ((norm - logits.gather(1, goal))[:, 0] * counts).sum()
            if not any(wanted):
                continue
            # In place: softmax - one at the target, 0 where nothing counts.
            slope = logits.sub_(norm).exp_()
            slope.scatter_add_(1, goal, slope.new_full(goal.shape, -1.0))
            slope = slope.mul_(counts[:, None]).to(weight.dtype)
            if to_hidden is not None:
                to_hidden[start : start + chunk] = F.linear(slope, weight.T)
            if to_weight is not None:
                to_weight.add_(F.linear(slope.T, rows.T))
            if to_bias is not None:
                to_bias.add_(slope.sum(0))
        ctx.slopes = (to_hidden, to_weight, to_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes, ctx.slopes = ctx.slopes, None
        made = (None if s is None else s.mul_(grad).to(d) for s, d in zip(slopes, ctx.dtypes, strict=True))
        return (*made, None, None, None)
