"""One teacher-forced pass over true sequences: is the right token on top, position by position?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resrope.posgen.locality import kinds
from resrope.posgen.model import Decoder
from resrope.posgen.positions import Where
from resrope.posgen.settings import Settings
from resrope.posgen.tasks import Task

At = Callable[[int], Where]
"""Length -> what a forward over so many tokens takes of positions, on the model's device; where they are
drawn, the next draw."""

_ROWS = 50  # sequences a forward pass: enough to fill the cores, small enough to stay in the cache


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What a model got right on ``rows`` sequences.

    correct: [length] how many rows have the right token at position l; 0 on the prefix, which is not
    predicted. loss: [length] mean cross-entropy in nats at each position, 0 on the prefix.
    """

    rows: int
    correct: NDArray[np.int64]
    loss: NDArray[np.float64]

    def accuracy(self, positions: NDArray[np.bool_]) -> float | None:
        """Share of right tokens over the chosen positions; None where there are none."""
        chosen = self.correct[positions]
        return float(chosen.sum() / (self.rows * len(chosen))) if len(chosen) else None


@torch.no_grad()
def evaluate(model: Decoder, where: At, tokens: Tensor, prefix_length: int, before: int = 0) -> Evaluation:
    """Predict every token from the true ones before it (the paper's OOD accuracy is scored so).

    tokens: [rows, before + length] int64; where: of the positions that are read. before:
    tokens in front of the sequence, which positions do not count. Positions from ``prefix_length`` on are
    counted.
    """
    prefix_length += before
    rows, length = tokens.shape
    correct = torch.zeros(length, dtype=torch.int64)
    loss = torch.zeros(length, dtype=torch.float64)
    first = prefix_length - 1  # the query that predicts the first generated token
    for batch in torch.split(tokens, _ROWS):
        there = where(length - 1)  # anew, where it is drawn: one draw would decide the whole test
        batch = batch.to(there.turns.device)
        logits = model(batch[:, :-1], there)[:, first:]
        targets = batch[:, prefix_length:]
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        correct[prefix_length:] += (logits.argmax(-1) == targets).sum(0).cpu()
        loss[prefix_length:] += nats.view(targets.shape).cpu().double().sum(0)
    return Evaluation(rows=rows, correct=correct[before:].numpy(), loss=(loss[before:] / rows).numpy())


@torch.no_grad()
def run_freely(model: Decoder, where: At, tokens: Tensor, prefix_length: int, before: int = 0) -> Evaluation:
    """Generate greedily from the prefix alone and compare with the true sequence; the loss is not known.

    Positions are those of the whole sequence from the start on. As ``evaluate`` else.
    """
    prefix_length += before
    rows, length = tokens.shape
    there = where(length - 1)
    tokens = tokens.to(there.turns.device)
    written = tokens[:, :prefix_length]
    for position in range(prefix_length, length):
        logits = model(written, there.first(position))
        written = torch.cat((written, logits[:, -1:].argmax(-1)), dim=1)
    correct = (written == tokens).sum(0).cpu()
    correct[:prefix_length] = 0
    return Evaluation(rows=rows, correct=correct[before:].numpy(), loss=np.full(length - before, np.nan))


def regions(task: Task, train_length: int, test_length: int) -> dict[str, NDArray[np.bool_]]:
    """The positions that each reported accuracy counts, as masks over [0, test_length).

    in_distribution: j+k <= l < train_length; ood: train_length <= l < test_length, the paper's measure;
    each also split by the ``kinds`` of positions: near, chained, far.
    """
    position = np.arange(test_length)
    whole = {
        "in_distribution": (position >= task.prefix_length) & (position < train_length),
        "ood": position >= train_length,
    }
    split = {
        f"{name}_{kind}": mask & chosen
        for name, mask in whole.items()
        for kind, chosen in kinds(task, test_length).items()
    }
    return whole | split


def accuracies(evaluation: Evaluation, task: Task, train_length: int) -> dict[str, float | None]:
    """Accuracy in each region, 0 to 1; None where a region is empty."""
    masks = regions(task, train_length, len(evaluation.correct))
    return {name: evaluation.accuracy(mask) for name, mask in masks.items()}


def counted(settings: Settings, task: str, part: Mapping[str, Any]) -> dict[str, float | None]:
    """``accuracies`` anew, from ``correct_by_position`` and ``rows`` of a record."""
    correct = np.array(part["correct_by_position"])
    seen = Evaluation(rows=part["rows"], correct=correct, loss=np.full(len(correct), np.nan))
    return accuracies(seen, settings.task(task), settings.train_length)
