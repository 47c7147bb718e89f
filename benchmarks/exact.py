"""A model's forward with exact phases against the same model as transformers runs it."""

from __future__ import annotations

import copy
from statistics import median
from typing import Any

import torch
from torch import nn

import resrope
from timing import ratio, times

# SmolLM2-135M's shape with random weights: time does not depend on them.
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
}
# Tokens of a forward, and how often it is timed: one token is a step of a generation.
FORWARDS = {1: 200, 64: 60, 512: 20}


def measure() -> dict[str, Any]:
    """Median ratio of exact to stock forwards by length (goal: at most 1.02), one thread."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stock = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).eval()
        exact = copy.deepcopy(stock)
        # The same weights in memory: where a copy happens to lie makes more difference than the phases.
        exact.load_state_dict(stock.state_dict(), assign=True)
        resrope.apply(exact, "resonance-yarn", factor=4)
        found = {str(n): _forward(stock, exact, n, rounds) for n, rounds in FORWARDS.items()}
    finally:
        torch.set_num_threads(threads)
    return {"forward": found, "time_ratio": {n: f["exact_over_stock"] for n, f in found.items()}}


def _forward(stock: nn.Module, exact: nn.Module, tokens: int, rounds: int) -> dict[str, float]:
    ids = torch.zeros(1, tokens, dtype=torch.long)

    def run(model: nn.Module) -> object:
        with torch.no_grad():
            return model(ids, use_cache=False)

    found = times({"stock": lambda: run(stock), "exact": lambda: run(exact)}, rounds)
    return {
        "stock_seconds": median(found["stock"]),
        "exact_seconds": median(found["exact"]),
        "exact_over_stock": ratio(found["exact"], found["stock"]),
    }
