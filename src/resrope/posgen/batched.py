"""Several models of one shape trained as one: every weight has a first axis [models].

A step of a small model leaves a GPU idle, and as many models take hardly longer than one. Plain operations
of torch on any device; what ``ops`` writes out for a CPU is not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resrope.posgen.model import EPS, ModelConfig
from resrope.posgen.ops import attention_weights, pair_rows
from resrope.posgen.positions import Where
from resrope.posgen.train import Trainer, batch_rows, learning_rate

Drop = Callable[[Tensor], Tensor]


def logits(
    weights: Mapping[str, Tensor], config: ModelConfig, tokens: Tensor, where: Where, drop: Drop
) -> Tensor:
    """Of every model's next tokens, [models, rows, seq, vocab_size]: what ``Decoder`` computes of each.

    weights: as ``Decoder.named_parameters``, stacked; tokens: int64 [models, rows, seq]; where: ``stacked``.
    drop: applied where T5 drops.
    """
    models, rows, seq = tokens.shape
    # One table of all models: a lookup by two indices would add up its gradient in any order.
    first = config.vocab_size * torch.arange(models, device=tokens.device)[:, None, None]
    x = F.embedding(tokens + first, weights["embedding"].flatten(0, 1))
    x = x if where.input is None else x + where.input[:, None]
    x = drop(x.flatten(1, 2))
    for i in range(config.n_layers):
        w = {name: weights[f"layers.{i}.{name}"] for name in ("qkv", "o", "wi", "wo")}
        normed = _normed(x, weights[f"layers.{i}.attention_norm"])
        pairs = torch.vmap(pair_rows, in_dims=(0, None))(w["qkv"], config.n_heads)
        attended = _attended((normed @ pairs.mT).view(models, rows, seq, -1), where, drop)
        x = x + drop(attended.view(models, rows * seq, -1) @ w["o"].mT)
        normed = _normed(x, weights[f"layers.{i}.feed_forward_norm"])
        x = x + drop(drop(F.relu(normed @ w["wi"].mT)) @ w["wo"].mT)
    x = drop(_normed(x, weights["final_norm"])) * config.d_model**-0.5
    made: Tensor = x @ weights["embedding"].mT
    return made.view(models, rows, seq, -1)


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPS) * gain[:, None]


def _attended(qkv: Tensor, where: Where, drop: Drop) -> Tensor:
    """[models, rows, seq, 3 * n_heads * head_dim] to what the heads give, [models, rows, seq, n_heads *
    head_dim]."""
    bias = None if where.bias is None else where.bias[:, None]
    weights, v = attention_weights(qkv, where.turns[:, None], bias)
    context: Tensor = drop(weights) @ v
    return context.transpose(2, 3).flatten(-2)


def stacked(wheres: Sequence[Where], device: torch.device) -> Where:
    """One ``Where`` for all models, each part with a first axis [models]; what some lack is 0 there."""
    return Where(
        torch.stack([w.turns for w in wheres]).to(device),
        _stacked([w.input for w in wheres], device),
        _stacked([w.bias for w in wheres], device),
    )


def _stacked(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    there = next((p for p in parts if p is not None), None)
    if there is None:
        return None
    return torch.stack([torch.zeros_like(there) if p is None else p for p in parts]).to(device)


class Batch:
    """The models of ``trainers`` between two steps; their optimiser is one. step: that they stand at, or have
    given up before.

    They go on as each would alone, but for rounding and for what dropout draws.
    """

    def __init__(self, trainers: Sequence[Trainer], device: torch.device, step: int = 0) -> None:
        self.trainers, self.device, self.step = trainers, device, step
        self.settings = trainers[0].settings
        models = [dict(t.model.named_parameters()) for t in trainers]
        self.weights = {
            name: nn.Parameter(torch.stack([m[name].detach() for m in models]).to(device), p.requires_grad)
            for name, p in models[0].items()
        }
        # Those of position embeddings stay their own: some models have them, some have not.
        own = [p for t in trainers for p in t.position.parameters()]
        self.optimizer = torch.optim.AdamW(
            [*(w for w in self.weights.values() if w.requires_grad), *own],
            weight_decay=self.settings.weight_decay,
        )
        if self.step:
            self._take_up()
        self.tokens = torch.stack([t.tokens for t in trainers])
        self._ended: set[int] = set()
        self._where: Where | None = None

    def losses(self, until: int) -> Iterator[list[float]]:
        """Train until ``until`` steps are done, yielding each step's mean loss in nats of every model."""
        while self.step < until:
            yield self._one_step()

    def end(self, index: int) -> None:
        """Leave the trainer of this index as it is from here on."""
        self._ended.add(index)

    def put_back(self, index: int) -> None:
        """Give the trainer of this index its weights, its moments and its step."""
        trainer = self.trainers[index]
        with torch.no_grad():
            for name, p in trainer.model.named_parameters():
                weight = self.weights[name]
                p.copy_(weight[index])
                if p.requires_grad:
                    moments = self.optimizer.state[weight]
                    trainer.optimizer.state[p] = {"step": moments["step"].clone().cpu()} | {
                        kind: moments[kind][index].clone() for kind in ("exp_avg", "exp_avg_sq")
                    }
        for p in trainer.position.parameters():
            trainer.optimizer.state[p] = self.optimizer.state[p]
        trainer.step = self.step

    def _take_up(self) -> None:
        """The moments that the trainers hold."""
        models = [dict(t.model.named_parameters()) for t in self.trainers]
        for name, weight in self.weights.items():
            if weight.requires_grad:
                held = [t.optimizer.state[m[name]] for t, m in zip(self.trainers, models, strict=True)]
                self.optimizer.state[weight] = {"step": torch.tensor(float(self.step))} | {
                    kind: torch.stack([h[kind] for h in held]).to(self.device)
                    for kind in ("exp_avg", "exp_avg_sq")
                }
        for trainer in self.trainers:
            for p in trainer.position.parameters():
                self.optimizer.state[p] = trainer.optimizer.state[p]

    def _one_step(self) -> list[float]:
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        rows = [batch_rows(self.step, settings, t.seed) for t in self.trainers]
        batch = torch.stack([t[r] for t, r in zip(self.tokens, rows, strict=True)]).to(self.device)
        made = logits(self.weights, settings.model, batch[..., :-1], self._here(batch), self._drop())
        prefix = settings.before + settings.j + settings.k
        nats = F.cross_entropy(
            made[:, :, prefix - 1 :].flatten(0, 2), batch[..., prefix:].flatten(), reduction="none"
        )
        each = nats.view(len(self.trainers), -1).mean(1)
        self.optimizer.zero_grad(set_to_none=True)
        each.sum().backward()  # type: ignore[no-untyped-call]
        for index in self._ended:  # whose weights here are copies, but not those of its positions
            for p in self.trainers[index].position.parameters():
                p.grad = None
        self.optimizer.step()
        self.step += 1
        told: list[float] = each.tolist()
        return told

    def _here(self, batch: Tensor) -> Where:
        """What this step takes of positions."""
        if self._where is None or not all(t.position.fixed for t in self.trainers):
            length = batch.shape[-1] - 1
            self._where = stacked([t.where(length, self.step) for t in self.trainers], self.device)
        return self._where

    def _drop(self) -> Drop:
        """Dropout of this step, drawn on the device from the seeds and the step."""
        rate = self.settings.dropout
        if not rate:
            return lambda x: x
        words = f"dropout {[t.seed for t in self.trainers]} {self.step}"
        seed = int.from_bytes(sha256(words.encode()).digest()[:7], "big")
        generator = torch.Generator(self.device).manual_seed(seed)

        def drop(x: Tensor) -> Tensor:
            return x * torch.empty_like(x).bernoulli_(1 - rate, generator=generator).div_(1 - rate)

        return drop
