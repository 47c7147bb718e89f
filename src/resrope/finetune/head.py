"""A transformers model whose loss comes from its head in chunks, however the model is sharded.

The product with the head and the softmax have to happen inside the head's own forward: there FSDP, ZeRO-3 and
LoRA have its weights together. So the head gives out, in the place of logits, the sum of the losses, and the
model's loss function divides it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resrope.finetune.loss import IGNORED, summed_loss

# Relative distance of two losses by rounding alone: float32, and the model in bfloat16 or float16.
_ROUNDING = {torch.float32: 1e-4}
_HALF_ROUNDING = 2e-2
_PROBE = 17


class LossHead(nn.Linear):
    """What ``install`` puts before a head's own class. With targets it gives the sum of their losses,
    [1, 1, 1], without them logits, as always."""

    resrope_targets: Tensor | None
    resrope_chunk: int

    def forward(self, input: Tensor) -> Tensor:
        """input: hidden states [batch, positions, width]."""
        targets, self.resrope_targets = self.resrope_targets, None
        if targets is None:
            return super().forward(input)
        hidden, weight, bias = _cast(input, self.weight, self.bias)
        total = summed_loss(hidden.flatten(0, 1), weight, bias, targets.flatten(), chunk=self.resrope_chunk)
        return total.view(1, 1, 1)


def _cast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As autocast would have them for a linear layer; it does not reach into an autograd function."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def install(model: Any, chunk: int, *, check: bool = True) -> None:
    """Make ``model`` (a causal LM of transformers) compute its loss ``chunk`` positions at a time.

    Weights, their names and logits without labels stay as they are; what it returns as logits beside a loss
    are no logits. Raises ValueError, and leaves the model alone, where its own loss is another one than the
    cross entropy of its head's product: logits that are capped or scaled afterwards, a head of another kind.
    check: compare the two losses; without numbers in the weights there is nothing to compare.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ValueError(
            f"the loss in chunks needs a linear head, {type(model).__name__} has {type(head).__name__}"
        )
    if check and not _head_has_the_last_word(model, head):
        raise ValueError(
            f"the loss in chunks is not for {type(model).__name__}: it does more to its logits than a "
            "linear head"
        )
    wanted = _loss_of(model) if check else 0.0
    head.__class__ = LossHead
    vars(head).update(resrope_targets=None, resrope_chunk=chunk)
    own = model.__dict__.get("_loss_function")
    model.loss_function = _mean
    hook = model.register_forward_pre_hook(_hand_over, with_kwargs=True)
    found = _loss_of(model) if check else 0.0
    near = _ROUNDING.get(model.dtype, _HALF_ROUNDING)
    if not abs(found - wanted) <= near * abs(wanted):
        hook.remove()
        head.__class__ = nn.Linear
        model.__dict__.pop("_loss_function") if own is None else setattr(model, "_loss_function", own)
        raise ValueError(
            f"the loss in chunks is not the loss of {type(model).__name__} ({found:.4f} and {wanted:.4f} on "
            "the same tokens)"
        )


def _hand_over(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Before the model's forward: the labels to the head, each moved to the position that predicts it."""
    labels = kwargs.get("labels")
    head = model.get_output_embeddings()
    head.resrope_targets = None if labels is None else F.pad(labels, (0, 1), value=IGNORED)[..., 1:]


def _mean(
    logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, **kwargs: Any
) -> Tensor:
    """transformers' loss function: the sum that the head made, over the targets of the whole update."""
    if logits.shape != (1, 1, 1):
        raise RuntimeError(
            "the head was not given its targets: the model's forward was called past its hooks"
        )
    if num_items_in_batch is None:
        num_items_in_batch = (labels[..., 1:] != IGNORED).sum()
    mean: Tensor = logits.sum() / num_items_in_batch
    return mean


@torch.no_grad()
def _head_has_the_last_word(model: Any, head: nn.Module) -> bool:
    """Whether the model's logits are what its head gave, to the bit."""
    given: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, args, output: given.append(output))
    try:
        logits = model(input_ids=_probe(model), use_cache=False).logits
    finally:
        hook.remove()
    return len(given) == 1 and torch.equal(logits.float(), given[0].float())


def _probe(model: Any) -> Tensor:
    rows = model.get_input_embeddings().num_embeddings
    ids: Tensor = (torch.arange(_PROBE, device=model.device)[None] * 7919) % rows
    return ids


@torch.no_grad()
def _loss_of(model: Any) -> float:
    """Of a few tokens."""
    training = model.training
    model.eval()
    ids = _probe(model)
    loss = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    model.train(training)
    return loss
