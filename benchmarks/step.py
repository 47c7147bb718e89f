"""The PosGen training step against transformers' T5 stack and the machine's own product rate.

    python benchmarks/step.py

Each peer lives in a process of its own, with the memory settings it would have there; every round runs
each of them once, in turn and alone, so that a noisy neighbour hits all alike. A figure is the median over
the rounds, a ratio the median of the rounds' ratios. GFLOP counted: 6 per weight of a
matrix product and token, and 12 * head_dim per attention score, causal half included.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from resrope.posgen.model import Decoder, ModelConfig
from resrope.posgen.ops import keep_heap
from resrope.posgen.positions import rotated
from timing import ratio

PAPER = ModelConfig()
QUICK = ModelConfig(d_model=128, n_heads=2, d_ff=512, dropout=0.0)


class T5(nn.Module):
    """transformers' decoder stack without an encoder, eager, head tied as T5 ties it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        settings = T5Config(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            d_kv=config.head_dim,
            num_heads=config.n_heads,
            d_ff=config.d_ff,
            num_layers=config.n_layers,
            dropout_rate=config.dropout,
            is_decoder=True,
            use_cache=False,
            attn_implementation="eager",
        )
        self.stack = T5Stack(settings)
        self.stack.set_input_embeddings(nn.Embedding(config.vocab_size, config.d_model))
        for block in self.stack.block:
            del block.layer[1]  # the cross-attention, which nothing here attends with
        self.scale = config.d_model**-0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, [batch, seq, vocab_size]."""
        hidden = self.stack(input_ids=tokens).last_hidden_state
        return F.linear(hidden * self.scale, self.stack.get_input_embeddings().weight)


def tables(seq: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return plain RoPE's cos and sin, [seq, head_dim/2]."""
    angles = torch.outer(torch.arange(seq), 10000.0 ** -torch.arange(0, 1, 2 / head_dim))
    return angles.cos(), angles.sin()


def training_step(
    model: nn.Module, forward: Callable[[Tensor], Tensor], config: ModelConfig, shape: list[int]
) -> Callable[[], None]:
    """Return a function that runs forward, backward and AdamW once on fixed random tokens."""
    tokens = torch.randint(0, config.vocab_size, (shape[0], shape[1] + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)

    def step() -> None:
        logits = forward(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(config: ModelConfig, shape: list[int]) -> Callable[[], None]:
    """Return one step of this package's decoder, with a fresh mask each time."""
    model, seeds = Decoder(config, seed=0), iter(range(1 << 30))
    where = rotated(*tables(shape[1], config.head_dim), config.n_heads)
    return training_step(model, lambda t: model(t, where, dropout_seed=next(seeds)), config, shape)


def gigaflop(config: ModelConfig, batch: int, seq: int) -> float:
    """Return the GFLOP of one training step's matrix products."""
    inner = config.n_heads * config.head_dim
    layer = config.d_model * (4 * inner + 2 * config.d_ff)
    weights = config.n_layers * layer + config.vocab_size * config.d_model
    scores = config.n_layers * config.n_heads * batch * seq * seq
    return (6 * weights * batch * seq + 12 * config.head_dim * scores) / 1e9


def product(size: int) -> Callable[[], object]:
    """Return one square float32 matrix product into memory that exists already."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return lambda: torch.mm(a, b, out=out)


def _serve(
    pipe: Connection, make: Callable[[], Callable[[], object]], threads: int | None, keep: bool
) -> None:
    """A peer's process: one timed run for every message, until None."""
    if keep:
        keep_heap()
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    run = make()
    while pipe.recv():
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)


def in_turn(
    peers: Mapping[str, tuple[Callable[[], Callable[[], object]], bool]], rounds: int, threads: int | None
) -> dict[str, list[float]]:
    """Seconds of every peer in every round, after three that do not count; peers: (maker, keep_heap)."""
    context, pipes = mp.get_context("spawn"), {}
    for name, (make, keep) in peers.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, threads, keep), daemon=True).start()
    found: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds + 3):
        for name, pipe in pipes.items():
            pipe.send(True)
            found[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    return {name: values[3:] for name, values in found.items()}


def t5_step(config: ModelConfig, shape: list[int]) -> Callable[[], None]:
    """Return one step of transformers' stack."""
    t5 = T5(config)
    return training_step(t5, t5, config, shape)


def measure(config: ModelConfig, shape: list[int], rounds: int, threads: int | None) -> dict[str, float]:
    """Measure one size; shape: [batch, seq]. The T5 peer once as it comes and once with our kept heap."""
    sizes = (1024, 2048, 3072)
    peers = {str(size): (partial(product, size), True) for size in sizes}
    peers["ours"] = (partial(our_step, config, shape), True)
    peers["t5"] = (partial(t5_step, config, shape), False)
    peers["t5_kept_heap"] = (partial(t5_step, config, shape), True)
    found = in_turn(peers, rounds, threads)
    work = gigaflop(config, *shape)
    # The best rate any round reached would reward one lucky moment; each round has its own peak.
    peaks = [
        max(2e-9 * size**3 / t for size, t in zip(sizes, row, strict=True))
        for row in zip(*(found[str(size)] for size in sizes), strict=True)
    ]
    rates = [work / t for t in found["ours"]]
    return {
        "batch": shape[0],
        "seq": shape[1],
        "gflop": work,
        "step_ms": 1e3 * median(found["ours"]),
        "t5_step_ms": 1e3 * median(found["t5"]),
        "t5_kept_heap_step_ms": 1e3 * median(found["t5_kept_heap"]),
        "times_faster_than_t5": ratio(found["t5"], found["ours"]),
        "times_faster_than_t5_kept_heap": ratio(found["t5_kept_heap"], found["ours"]),
        "gflops": median(rates),
        "product_gflops": median(peaks),
        "share_of_product_rate": ratio(rates, peaks),
    }


def measure_all() -> dict[str, Any]:
    """The paper's size on all cores, and preset quick's on one thread."""
    return {
        "paper": measure(PAPER, [128, 65], 7, threads=None),
        "quick": measure(QUICK, [16, 64], 40, threads=1),
    }


if __name__ == "__main__":
    print(json.dumps(measure_all(), indent=1))
