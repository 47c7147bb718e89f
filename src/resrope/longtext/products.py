"""Matrix products on a CPU, by whichever of torch's two libraries is fast there.

torch gives float32 products to MKL, which leaves out AVX-512 on processors of other makers: half of their
rate and less. oneDNN, in the same torch, does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# How much faster oneDNN must be; where both are good, the choice must not follow the noise of a clock.
_WORTH = 1.3
# Rows from which on a product is limited by arithmetic, not by reading the weights.
_ROWS = 64
_ROUNDS = 5


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """What surrounds a forward on ``device``: products by oneDNN where that is faster, else nothing.

    The numbers are the same up to rounding.
    """
    return _ByOneDnn() if device.type == "cpu" and one_dnn_is_faster() else nullcontext()


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


class _ByOneDnn(TorchFunctionMode):
    """Linear layers of float32 go to oneDNN, everything else where it always went."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and not kwargs and _suits(*args):
            return _linear(*args)
        return func(*args, **(kwargs or {}))


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and type(weight) in (Tensor, torch.nn.Parameter)
        and x.shape[:-1].numel() >= _ROWS
    )
