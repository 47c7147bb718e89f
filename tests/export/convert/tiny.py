"""Tiny models that transformers saves, and their GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import transformers

from resrope import RopeSpec, Yarn, frequencies
from resrope.export.convert import convert

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
CONFIGS: dict[str, Any] = {
    "llama": (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {"head_dim": 32, "sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, {}),
    "granite": (transformers.GraniteConfig, {"logits_scaling": 2.0, "attention_multiplier": 0.5}),
    "phi3": (transformers.Phi3Config, {"partial_rotary_factor": 0.5}),
}


def table_for(config) -> Any:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return frequencies(
        RopeSpec(
            head_dim=head_dim,
            rope_theta=10_000.0,
            partial_rotary_factor=0.5 if config.model_type == "phi3" else 1.0,
            scaling=Yarn(factor=4, original_max_position_embeddings=128),
            resonance=True,
        )
    )


def run(out: Path, model, **given):
    folder, state, table = model
    options = {"table": table, "length": 512, "provenance": {"a": 1}, "no_vocab": True}
    convert(folder, out, **{**options, **given})
    return gguf.GGUFReader(out), state, table


def numbers(reader) -> dict[str, Any]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
