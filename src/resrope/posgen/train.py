"""Train one model; every step is a function of the settings, the seed and the state before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resrope.posgen.model import Decoder
from resrope.posgen.positions import PositionEmbedding, Where
from resrope.posgen.settings import Settings

# Before the names of a position embedding's own parameters.
POSITION = "position."


def steps_per_epoch(settings: Settings) -> int:
    """Optimiser steps an epoch; the last batch may be smaller."""
    return math.ceil(settings.train_rows / settings.batch_size)


def total_steps(settings: Settings) -> int:
    """Optimiser steps of a whole run."""
    return settings.epochs * steps_per_epoch(settings)


def look_steps(settings: Settings) -> list[int]:
    """After how many steps to evaluate: evenly spread, the last one at the end."""
    total, looks = total_steps(settings), min(settings.looks, total_steps(settings))
    return [round(total * (i + 1) / looks) for i in range(looks)]


def learning_rate(step: int, settings: Settings) -> float:
    """The rate of step 0, 1, …: half-cosine from peak/25 to the peak, then down to 0; or constant."""
    peak, total = settings.learning_rate, total_steps(settings)
    if settings.schedule == "constant":
        return peak
    rise = settings.warmup * total
    if step < rise:
        return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / rise)) / 2
    return peak * (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2


def batch_rows(step: int, settings: Settings, seed: int) -> Tensor:
    """Which training rows step ``step`` sees: each epoch is its own permutation of all rows."""
    epoch, index = divmod(step, steps_per_epoch(settings))
    order = _epoch_order(epoch, settings.train_rows, seed)
    return order[index * settings.batch_size : (index + 1) * settings.batch_size]


_orders: dict[tuple[int, int, int], Tensor] = {}


def _epoch_order(epoch: int, rows: int, seed: int) -> Tensor:
    key = (epoch, rows, seed)
    if key not in _orders:
        if len(_orders) >= 64:  # several seeds that are trained together
            _orders.clear()
        _orders[key] = torch.from_numpy(np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows))
    return _orders[key]


@dataclass
class Trainer:
    """A model and its AdamW between steps. ``step`` counts the steps done.

    tokens: [train_rows, before + train_length] int64. position: its parameters are trained too.
    """

    settings: Settings
    seed: int
    tokens: Tensor
    position: PositionEmbedding
    step: int = 0
    model: Decoder = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    _fixed: Where | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.model = Decoder(self.settings.model, seed=self.seed)
        if not self.settings.train_feed_forward:
            for layer in self.model.layers:
                for part in (layer.feed_forward_norm, layer.wi, layer.wo):
                    part.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            list(self._trained().values()),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.named_parameters().items() if p.requires_grad}

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Of the model, and of the position embedding behind ``position.``."""
        own = {f"{POSITION}{name}": p for name, p in self.position.named_parameters()}
        return dict(self.model.named_parameters()) | own

    def where(self, length: int, step: int) -> Where:
        """What a step takes of positions; drawn from the seed and the step where anything is drawn."""
        self.position.train()
        random = np.random.default_rng([self.seed, step])
        return self.position.at(self.position.positions(length, random))

    def _here(self, length: int) -> Where:
        if self._fixed is None or not self.position.fixed:
            self._fixed = self.where(length, self.step)
        return self._fixed

    def losses(self, until: int) -> Iterator[float]:
        """Train until ``until`` steps are done, yielding each step's mean loss in nats."""
        while self.step < until:
            yield self._one_step()

    def _one_step(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        batch = self.tokens[batch_rows(self.step, self.settings, self.seed)]
        prefix = self.settings.before + self.settings.j + self.settings.k
        # Seeds of dropout are spread so that no two (seed, step) pairs share one.
        dropout_seed = self.seed * 2**32 + self.step
        logits = self.model(batch[:, :-1], self._here(batch.shape[1] - 1), dropout_seed=dropout_seed)
        loss = F.cross_entropy(logits[:, prefix - 1 :].flatten(0, 1), batch[:, prefix:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, but for ``step``: weights and both moments."""
        state = {f"model.{name}": p.detach() for name, p in self.named_parameters().items()}
        for name, p in self._trained().items():
            if not self.optimizer.state[p]:
                raise ValueError(f"{name} has no gradient: every parameter must be used")
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"{moment}.{name}"] = self.optimizer.state[p][moment]
        return state

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put ``weights`` in the place of all parameters, by ``named_parameters``."""
        for name, p in self.named_parameters().items():
            p.copy_(weights[name])

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Inverse of ``state``: the following steps give the same bits as without the interruption."""
        self.load({name: state[f"model.{name}"] for name in self.named_parameters()})
        with torch.no_grad():
            for name, p in self._trained().items():
                self.optimizer.state[p] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": state[f"exp_avg.{name}"].clone(),
                    "exp_avg_sq": state[f"exp_avg_sq.{name}"].clone(),
                }
        self.step = step
