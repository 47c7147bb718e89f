"""What a step takes, found by taking one on tensors that have shapes and no numbers: any model, any length.

The code of a training step (model, LoRA, checkpointing, the loss in chunks) runs on torch's fake tensors, and
every storage is counted from its making to its end. What kernels use inside is not seen.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from resrope.finetune import checkpointing
from resrope.finetune.adapters import with_lora
from resrope.finetune.head import LossHead, install
from resrope.finetune.opened import dtype_of
from resrope.finetune.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Of one process, in bytes. weights: all of them. gradients, moments: of those that are trained.
    alone: the peak of a step whose gradients are made anew. added: the peak of one that adds to gradients
    there are. layer: weights of the largest layer. flops: of a forward and a backward."""

    weights: int
    gradients: int
    moments: int
    alone: int
    added: int
    layer: int
    flops: int

    def peak(self, accumulation: int = 1, processes: int = 1, *, sharded: bool = False) -> int:
        """Bytes at the peak.

        Processes that are copies hold the gradients in the buckets that they exchange, from step to step, and
        those of an accumulation beside them. sharded: weights, gradients and moments are split over the
        processes; each then holds two whole layers at a time, the one at work and the next.
        """
        if processes == 1:
            return self.moments + (self.alone if accumulation == 1 else self.added)
        if not sharded:
            return self.moments + self.added + (0 if accumulation == 1 else self.gradients)
        split = (self.weights + self.gradients + self.moments) // processes
        return split + 2 * self.layer + self.activations

    @property
    def activations(self) -> int:
        """What a step holds beside weights and gradients."""
        return self.added - self.weights - self.gradients


def estimate(config: Any, recipe: Recipe) -> Estimate:
    """What one batch of ``recipe`` takes on a model of ``config``, a transformers config.

    Linear layers of 4 bits are counted as such, the products with them as with whole ones. Raises ValueError
    for what ``head.install`` refuses.
    """
    with _quietly(), torch.device("meta"):
        model = _model(config, recipe)
    with FakeTensorMode(), _quietly():
        _materialise(model)
        held = {*model.parameters(), *model.buffers()}
        weights = _held(model, recipe)
        with _Live(held) as live:
            ids = torch.zeros((recipe.batch, recipe.length), dtype=torch.int64)
            _step(model, ids, recipe)
            alone, live.most = live.most, live.now
            _step(model, ids, recipe)
        with _counted() as counter:  # it takes operations apart, whose parts are larger
            _step(model, ids, recipe)
    saved = _saved_by_four_bits(model) if recipe.tuning == "qlora" else 0
    trained = [p for p in model.parameters() if p.requires_grad]
    return Estimate(
        weights=weights,
        gradients=sum(p.nbytes for p in trained),
        moments=sum(2 * p.numel() * torch.float32.itemsize for p in trained),
        alone=alone - saved,
        added=live.most - saved,
        layer=_largest_layer(model),
        flops=counter.get_total_flops(),
    )


def loaded(config: Any, recipe: Recipe) -> int:
    """Bytes of all weights as a process loads them."""
    with _quietly(), torch.device("meta"):
        return _held(_model(config, recipe), recipe)


def _held(model: Any, recipe: Recipe) -> int:
    saved = _saved_by_four_bits(model) if recipe.tuning == "qlora" else 0
    return int(sum(t.nbytes for t in {*model.parameters(), *model.buffers()})) - saved


def _model(config: Any, recipe: Recipe) -> Any:
    """As ``open_model`` has it, without numbers; the tables of a method take no other room than its own."""
    from transformers import AutoModelForCausalLM

    # FlashAttention holds what torch's own attention holds, and is not there on every machine that asks.
    options = {"attn_implementation": "eager"} if recipe.attention == "eager" else {}
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=dtype_of(recipe), **options
    )
    install(model, recipe.chunk, check=False)
    if recipe.checkpointing:
        checkpointing.enable(model)
    if recipe.tuning != "full":
        model = with_lora(model, replace(recipe, tuning="lora"))
    if recipe.tuning == "qlora":  # what is not of 4 bits becomes float32
        whole = {id(weight) for weight in _of_four_bits(model)}
        for one in model.parameters():
            one.data = one.data if id(one) in whole else one.data.float()
    return model.train()


def _materialise(model: Any) -> None:
    """Tensors without a device become fake ones on a CPU, where attention takes the path that it takes there.

    A model cannot be made fake from the start: torch moves no fake tensor in place, and peft moves its own.
    """
    made: dict[Any, torch.Tensor] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and old not in made:
                made[old] = torch.nn.Parameter(_like(old), requires_grad=old.requires_grad)
            module._parameters[name] = None if old is None else made[old]
        for name, old in module._buffers.items():
            module._buffers[name] = None if old is None else _like(old)


def _like(old: torch.Tensor) -> torch.Tensor:
    return torch.empty(old.shape, dtype=old.dtype, device="cpu")


def _step(model: Any, ids: torch.Tensor, recipe: Recipe) -> None:
    kind = ids.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=recipe.precision == "bf16"):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that are alive, and the most there were."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        for one in held:
            self._count(one.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def _counted() -> FlopCounterMode:
    """A counter that knows the attention of CPUs; where it is causal, half of the square."""
    ops = torch.ops.aten
    mapping = {
        ops._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **kw: _attention(2, q, k),
        ops._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, *rest, **kw: _attention(
            5, q, k
        ),
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _attention(products: int, query: Any, key: Any) -> int:
    """Of so many products [queries, keys] × head_dim, of which a causal mask needs half. query: its shape."""
    batch, heads, queries, head_dim = query
    return int(products * batch * heads * queries * key[2] * head_dim)


def _saved_by_four_bits(model: Any) -> int:
    """Bytes by which NF4 with double quantisation (QLoRA, Section 3) is smaller: 4.127 bits a weight."""
    return sum(w.nbytes - round(w.numel() * 4.127 / 8) for w in _of_four_bits(model))


def _of_four_bits(model: Any) -> list[torch.Tensor]:
    """The weights that qlora holds in 4 bits."""
    return [
        m.weight
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and not m.weight.requires_grad and not _is_own(name, m)
    ]


def _is_own(name: str, module: Any) -> bool:
    """Whether a linear layer is never of 4 bits: LoRA's own and the head."""
    return "lora_" in name or isinstance(module, LossHead)


def _largest_layer(model: Any) -> int:
    layers = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max((sum(p.nbytes for p in one.parameters()) for m in layers for one in m), default=0)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
