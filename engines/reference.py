"""The reference: transformers 5 in this process, its rotary buffers set by hand to a given table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def install(model: Any, tables: Mapping[str, tuple[Sequence[float] | Tensor, float]]) -> None:
    """Overwrite inv_freq and the attention factor in every rotary module of the language model.

    tables: layer type to (radians per token, factor); "default" where all layers share one. Raises
    ValueError when a table finds no module.
    """
    rest = set(tables)
    for name, module in model.named_modules():
        if "visual" in name:
            continue
        for layer, (inv_freq, factor) in tables.items():
            prefix = "" if layer == "default" else f"{layer}_"
            if f"{prefix}inv_freq" in module._buffers:
                wanted = torch.as_tensor(inv_freq, dtype=torch.float64).float()
                getattr(module, f"{prefix}inv_freq").copy_(wanted)
                setattr(module, f"{prefix}attention_scaling", float(factor))
                rest.discard(layer)
    if rest:
        raise ValueError(f"no rotary module for layer type {', '.join(sorted(rest))}")


def logits(model: Any, tokens: Sequence[int], start: int = 0) -> np.ndarray:
    """[tokens, vocabulary] float32 logits in one forward, the first token at position ``start``."""
    ids = torch.tensor([list(tokens)])
    given = {"position_ids": torch.arange(start, start + len(tokens))[None]} if start else {}
    with torch.no_grad():
        return np.asarray(model(input_ids=ids, use_cache=False, **given).logits[0].float())


def greedy(model: Any, tokens: Sequence[int], count: int) -> list[int]:
    """``count`` token ids after the prompt, the likeliest each time; no token ends it."""
    ids = torch.tensor([list(tokens)])
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        mask = torch.ones_like(ids)
        made = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False)
    return [int(token) for token in made[0, len(tokens) :]]


def load(weights: Path, source: Path, attention: str | None = None) -> Any:
    """The model that the config in ``source`` describes with the weights in ``weights``, in float32."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    cls = getattr(transformers, config.architectures[0])
    return cls.from_pretrained(
        weights, config=config, dtype=torch.float32, attn_implementation=attention
    ).eval()


def difference(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Largest |Δlogit|, and the mean over positions of KL(reference ‖ other) in nats, in float64."""
    if reference.shape != other.shape:
        raise ValueError(f"logits must have the shape {reference.shape}, got {other.shape}")
    largest, divergence = 0.0, 0.0
    for a, b in zip(reference, other, strict=True):  # row by row: a real vocabulary in float64 is large
        p, q = _log_softmax(a), _log_softmax(b)
        largest = max(largest, float(np.abs(a.astype(np.float64) - b).max()))
        divergence += float((np.exp(p) * (p - q)).sum())
    return {"max_difference": largest, "kl": divergence / len(reference)}


def _log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row.astype(np.float64) - float(row.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
