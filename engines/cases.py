"""What is run: tiny random models of 22 architectures, and the methods put on them.

Every number that a table depends on stands here, so that the reference never comes from reading a config.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resrope import Frequencies, RopeSpec, frequencies, method

ORIGINAL = 64
FACTOR = 4.0
LENGTH = 256
VOCAB = 288
HEAD_DIM = 32
_SEED = 2403

# Sizes are multiples of 32, GGML's block; four heads of 32 dimensions, two of them for keys and values.
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": ORIGINAL,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": HEAD_DIM,
    "qk_nope_head_dim": HEAD_DIM,
    "v_head_dim": HEAD_DIM,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One architecture in small.

    config: transformers' config class; changes: what differs from the common sizes. layer: the layer type
    whose table is extended, None where all layers share one. vision: the model wraps a text model.
    attention: the implementation that transformers must be asked for, None for its own choice.
    """

    config: str
    changes: dict[str, Any] = field(default_factory=dict)
    rope_theta: float = 10_000.0
    partial_rotary_factor: float = 1.0
    layer: str | None = None
    sliding_rope_theta: float = 10_000.0
    vision: bool = False
    attention: str | None = None

    def rope(self) -> dict[str, Any]:
        """The unscaled model's rope_parameters, in transformers 5's words."""
        plain: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.partial_rotary_factor != 1.0:
            plain["partial_rotary_factor"] = self.partial_rotary_factor
        if self.layer is None:
            return plain
        sliding = {"rope_type": "default", "rope_theta": self.sliding_rope_theta}
        return {self.layer: plain, "sliding_attention": sliding}


def _windowed(kinds: str) -> dict[str, Any]:
    """Layers with a window shorter than the test, so that both kinds of layer matter."""
    names = {"s": "sliding_attention", "f": "full_attention"}
    return {
        "sliding_window": 48,
        "layer_types": [names[kind] for kind in kinds],
        "num_hidden_layers": len(kinds),
    }


_HEAD = {"head_dim": HEAD_DIM}
_TIED = {"tie_word_embeddings": True}
_GEMMA = {**_HEAD, **_TIED, "query_pre_attn_scalar": HEAD_DIM}
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(config="LlamaConfig"),
    "mistral": Architecture(config="MistralConfig", changes={**_HEAD, "sliding_window": None}),
    "mixtral": Architecture(config="MixtralConfig", changes={**_HEAD, **_EXPERTS}, rope_theta=1e6),
    "qwen2": Architecture(config="Qwen2Config"),
    "qwen3": Architecture(config="Qwen3Config", changes=_HEAD),
    # transformers 4's faster attention leaves out Gemma 2's soft cap.
    "gemma2": Architecture(config="Gemma2Config", changes={**_GEMMA, **_windowed("sf")}, attention="eager"),
    "gemma3_text": Architecture(
        config="Gemma3TextConfig",
        changes={**_GEMMA, **_windowed("sssssf")},
        rope_theta=1e6,
        layer="full_attention",
    ),
    "phi": Architecture(config="PhiConfig", partial_rotary_factor=0.5),
    "phi3": Architecture(config="Phi3Config", changes={"original_max_position_embeddings": ORIGINAL}),
    # MLX-LM takes 4 times the hidden size, whatever the config says.
    "gpt_neox": Architecture(
        config="GPTNeoXConfig", changes={"intermediate_size": 512}, partial_rotary_factor=0.25
    ),
    "stablelm": Architecture(config="StableLmConfig", partial_rotary_factor=0.25),
    "olmo2": Architecture(config="Olmo2Config"),
    "olmo3": Architecture(
        config="Olmo3Config",
        changes=_windowed("sf"),
        rope_theta=500_000.0,
        layer="full_attention",
        sliding_rope_theta=500_000.0,
    ),
    "cohere": Architecture(config="CohereConfig", changes={**_TIED, "logit_scale": 1.0}),
    "glm4": Architecture(config="Glm4Config", changes=_HEAD, partial_rotary_factor=0.5),
    "granite": Architecture(
        config="GraniteConfig", changes={"attention_multiplier": HEAD_DIM**-0.5, "logits_scaling": 1.0}
    ),
    "starcoder2": Architecture(config="Starcoder2Config", changes=_TIED),
    "smollm3": Architecture(config="SmolLM3Config", changes={"no_rope_layers": [1, 1]}, rope_theta=2e6),
    "falcon": Architecture(
        config="FalconConfig",
        changes={"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    ),
    "gpt_oss": Architecture(
        config="GptOssConfig", changes={**_HEAD, **_windowed("sf"), **_EXPERTS}, rope_theta=150_000.0
    ),
    "deepseek_v3": Architecture(config="DeepseekV3Config", changes=_LATENT),
    "qwen2_vl": Architecture(config="Qwen2VLConfig", rope_theta=1e6, vision=True),
}

_ORIGINAL = {"original_max_position_embeddings": ORIGINAL}
# What `resrope.method` takes; `resrope extend` is asked for the same by factor or length alone.
# "rope" changes nothing: what an engine differs by anyway.
METHODS: dict[str, dict[str, Any]] = {
    "resonance-yarn": {"factor": FACTOR, **_ORIGINAL},
    "rope": {},
    "resonance-rope": {},
    "yarn": {"factor": FACTOR, **_ORIGINAL},
    "ntk": {"factor": FACTOR},
    "linear": {"factor": FACTOR},
    "resonance-ntk": {"factor": FACTOR},
    "dynamic-ntk": {"factor": 1.0, "seq_len": LENGTH, **_ORIGINAL},
}


def table(architecture: str, name: str) -> Frequencies:
    """The reference: frequencies of the method on this architecture's heads."""
    made, arch = method(name, **METHODS[name]), ARCHITECTURES[architecture]
    spec = RopeSpec(
        head_dim=HEAD_DIM,
        rope_theta=arch.rope_theta,
        partial_rotary_factor=arch.partial_rotary_factor,
        scaling=made.scaling,
        resonance=made.resonance,
    )
    return frequencies(spec)


def arguments(name: str) -> list[str]:
    """How `resrope extend` is asked for the method."""
    if name in ("dynamic-ntk", "rope", "resonance-rope"):
        return ["--method", name, "--length", str(LENGTH)]
    return ["--method", name, "--factor", f"{FACTOR:g}"]


def model(architecture: str) -> Any:
    """A tiny random model, the same at every call, in float32 and evaluation mode.

    Weights are wider than a fresh model's, so that attention is far from uniform and a wrong table shows.
    """
    import torch

    built = _class(architecture)(config(architecture)).to(torch.float32).eval()
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for _, weight in sorted(built.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(0.1 * noise)
            else:
                weight.add_(0.05 * noise)
    return built


def config(architecture: str) -> Any:
    """The transformers config of the tiny model."""
    import transformers

    arch = ARCHITECTURES[architecture]
    cls = getattr(transformers, arch.config)
    values = {**_COMMON, **arch.changes, "rope_parameters": arch.rope()}
    if not arch.vision:
        return cls(**values)
    values["rope_parameters"] = {**arch.rope(), "mrope_section": [4, 6, 6]}
    tower = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 128, "mlp_ratio": 2}
    return cls(text_config=values, vision_config=tower, tie_word_embeddings=False)


def tokens() -> list[int]:
    """LENGTH token ids, none of them special."""
    import random

    chosen = random.Random(_SEED)
    return [chosen.randrange(3, VOCAB) for _ in range(LENGTH)]


def save(architecture: str, folder: Path) -> None:
    """Write the unscaled tiny model as transformers does, and a tokenizer, which a GGUF file must have."""
    model(architecture).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()), encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    """GPT-2's kind of tokenizer with VOCAB tokens: every byte, then pairs of letters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    # llama.cpp looks these up in every file whose name has phi3 in it.
    special = ["<unk>", "<s>", "</s>", "<|endoftext|>"]
    count = VOCAB - 256 - len(special)
    pairs = [f"{first} {chr(97 + i)}" for first in "ea" for i in range(26)][:count]
    tokens = [*letters, *(pair.replace(" ", "") for pair in pairs), *special]
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {token: i for i, token in enumerate(tokens)}
    bpe = {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "decoder": split, "model": bpe}


def _class(architecture: str) -> Any:
    import transformers

    name = type(config(architecture)).__name__.removesuffix("Config").removesuffix("Text")
    return getattr(
        transformers,
        f"{name}ForConditionalGeneration" if ARCHITECTURES[architecture].vision else f"{name}ForCausalLM",
    )
