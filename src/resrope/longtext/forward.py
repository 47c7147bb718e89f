"""One pass over a text in chunks, with the keys and values kept: losses of every token, or what follows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resrope.longtext.cache import reserve
from resrope.longtext.products import fast_products

CHUNK = 512
# Rows of logits whose softmax is taken at a time; more need a second copy of them all, and leave holes.
ROWS = 16

Losses = NDArray[np.float32]
# Called with the number of tokens that were read since the last call.
Progress = Callable[[int], None]


def token_losses(
    model: nn.Module,
    tokens: Sequence[int],
    *,
    chunk: int = CHUNK,
    first: int = 1,
    progress: Progress = lambda tokens: None,
) -> Losses:
    """Negative log-likelihood, in nats, of every token given those before it.

    tokens: n token ids, read from position 0. first: index of the first token whose loss is wanted, at
    least 1. Returns float32 [n - first]. Logits are held for ``chunk`` positions at a time, activations too;
    only keys and values grow with n. Equal to the losses of one forward over all tokens up to rounding.
    Raises ValueError when a loss is not a number.
    """
    ids, reader = torch.tensor(tokens), _Reader(model, len(tokens))
    losses = [torch.empty(0)]
    for start in range(0, len(ids) - 1, chunk):
        part = ids[start : min(start + chunk, len(ids) - 1)]
        end = start + len(part)
        keep = min(len(part), end - (first - 1))
        logits = reader(part, max(keep, 1))
        if keep > 0:
            losses.append(_losses(logits, ids[end - keep + 1 : end + 1]))
        del logits  # or they would stay until the next chunk's are there
        progress(len(part))
    found: Losses = torch.cat(losses).numpy()
    if not np.isfinite(found).all():
        where = first + int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"the model's loss of token {where} is not a number: try --dtype float32")
    return found


def continuation(
    model: nn.Module,
    tokens: Sequence[int],
    count: int,
    *,
    chunk: int = CHUNK,
    stop: Collection[int] = (),
    progress: Progress = lambda tokens: None,
) -> list[int]:
    """The ``count`` most likely tokens after ``tokens``, one by one (greedy); a token of ``stop`` ends them.

    Returns at most ``count`` token ids, the one of ``stop`` not among them.
    """
    made: list[int] = []
    reader = _Reader(model, len(tokens) + count)
    last = [reader(torch.tensor(part), 1) for part in _split(tokens, chunk, progress)][-1]
    while len(made) < count:
        token = int(last[-1].argmax())
        if token in stop:
            break
        made.append(token)
        if len(made) < count:
            last = reader(torch.tensor([token]), 1)
    return made


def _split(tokens: Sequence[int], chunk: int, progress: Progress) -> Iterator[Sequence[int]]:
    for start in range(0, len(tokens), chunk):
        yield tokens[start : start + chunk]
        progress(len(tokens[start : start + chunk]))


class _Reader:
    """A model that reads a text of ``length`` tokens part by part; it chooses the kind of cache itself."""

    def __init__(self, model: nn.Module, length: int) -> None:
        self._model: Any = model
        self._length = length
        self._cache: Any = None

    @torch.inference_mode()
    def __call__(self, part: Tensor, keep: int) -> Tensor:
        """Logits [keep, vocabulary] of the last ``keep`` positions of ``part``, token ids [any]."""
        ids = part[None].to(self._model.device)
        with fast_products(ids.device):
            out = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=keep)
        if self._cache is None:
            reserve(out.past_key_values, self._length)
        self._cache = out.past_key_values
        logits: Tensor = out.logits[0, -keep:]
        return logits


@torch.inference_mode()
def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in float32 [rows], on the CPU."""
    targets = targets.to(logits.device)
    parts = zip(torch.split(logits, ROWS), torch.split(targets, ROWS), strict=True)
    return torch.cat([F.cross_entropy(row.float(), to, reduction="none") for row, to in parts]).cpu()
