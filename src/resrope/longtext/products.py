"""Matrix products on a CPU, by whichever of torch's two libraries is fast there.

torch gives float32 products to MKL, which leaves out AVX-512 on processors of other makers: half of their
rate and less. oneDNN, in the same torch, does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# How much faster oneDNN must be; where both are good, the choice must not follow the noise of a clock.
_WORTH = 1.3
# Rows from which on a product is limited by arithmetic, not by reading the weights.
_ROWS = 64
_ROUNDS = 5
# Fake and sharded tensors are not for it.
_PLAIN = (Tensor, torch.nn.Parameter)


def fast_products(device: torch.device, one_dnn: bool | None = None) -> AbstractContextManager[Any]:
    """What surrounds a forward on ``device``, and its backward: products by oneDNN where it is faster, else
    nothing.

    one_dnn: an earlier choice, where the same bits are wanted again; the numbers are the same up to rounding.
    Autocast, and layers in another precision than float32, are left
    alone.
    """
    if device.type != "cpu":
        return nullcontext()
    chosen = one_dnn_is_faster() if one_dnn is None else one_dnn
    return _ByOneDnn() if chosen else nullcontext()


@cache
@torch.inference_mode()
def one_dnn_is_faster() -> bool:
    """Tried once, in some milliseconds, with the threads that torch has."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return _WORTH * _seconds(_linear) < _seconds(F.linear)


def _seconds(product: Callable[[Tensor, Tensor, None], Tensor]) -> float:
    """The best of some rounds, after one that is not counted."""
    taken, rows, weight = [], torch.ones(256, 1024), torch.ones(1024, 1024)
    for _ in range(1 + _ROUNDS):
        start = time.perf_counter()
        product(rows, weight, None)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


class _Linear(torch.autograd.Function):
    """oneDNN's linear layer knows no gradients; each of them is a linear layer too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _linear(grad, weight.T) if wanted[0] else None,
            _linear(rows.T, x.flatten(0, -2).T) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


class _ByOneDnn:
    """Linear layers of float32 go to oneDNN, everything else where it always went.

    torch's own name for a linear layer is another function within it. A mode of torch would do for a forward,
    but is not there where a backward computes layers again.
    """

    def __enter__(self) -> None:
        self._stock = F.linear
        F.linear = self._product

    def __exit__(self, *_: object) -> None:
        F.linear = self._stock

    def _product(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not _suits(input, weight):
            return self._stock(input, weight, bias)
        # Within another function's forward no gradients are kept.
        made: Any = _Linear.apply if torch.is_grad_enabled() else _linear
        return made(input, weight, bias)  # type: ignore[no-any-return]


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and x.shape[:-1].numel() >= _ROWS
    )
