"""Configs of both spellings against the rotary modules that transformers builds from them."""

from __future__ import annotations

import copy
import importlib
import json
from typing import Any

import pytest

pytest.importorskip("transformers")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from resrope import Linear, RopeSpec, frequencies
from resrope.models import defaults, rope_from_config

LLAMA = {"model_type": "llama", "hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 4096}


FLAT = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "gemma",
    "gemma2",
    "phi",
    "phi3",
    "phimoe",
    "gpt_neox",
    "stablelm",
    "persimmon",
    "olmo",
    "olmo2",
    "olmoe",
    "cohere",
    "cohere2",
    "glm",
    "glm4",
    "granite",
    "granitemoe",
    "starcoder2",
    "smollm3",
    "falcon",
    "gpt_oss",
    "deepseek_v3",
    "nemotron",
    "helium",
    "ernie4_5",
    "exaone4",
    "seed_oss",
    "minimax",
    "minimax_m2",
    "bitnet",
    "apertus",
    "cwm",
    "jetmoe",
    "lfm2",
    "mistral4",
]
NESTED = ["gemma3_text", "gemma3n_text", "gemma4_text", "modernbert", "olmo3", "mimo_v2_flash", "deepseek_v4"]


def config_class(model_type: str) -> Any:
    return CONFIG_MAPPING[model_type]


def rotary_modules(config: Any) -> dict[str, Any]:
    """The rotary module classes beside the config's class, by name, built from it."""
    name = type(config).__module__.replace("configuration_", "modeling_")
    module = importlib.import_module(name)
    prefix = type(config).__name__.removesuffix("Config").removesuffix("Text")
    found = {n: c for n, c in vars(module).items() if n.startswith(prefix) and n.endswith("RotaryEmbedding")}
    return {n: c(config) for n, c in found.items() if "Vision" not in n and "Audio" not in n}


def assert_same(spec: RopeSpec, inv_freq: Any, attention_factor: float, seq_len: int | None) -> None:
    table = frequencies(spec, seq_len=seq_len)
    # Stock tables are float32: a relative 1e-5 is far above their rounding, far below any other reading.
    assert table.inv_freq == pytest.approx(inv_freq.tolist(), rel=1e-5)
    assert table.attention_factor == pytest.approx(attention_factor, rel=1e-12)


def assert_reads_as(config: Any, data: dict[str, Any]) -> None:
    """``data``, read by us, has the table of the rotary module that transformers builds from ``config``."""
    rope = rope_from_config(json.loads(json.dumps(data, default=str)))
    assert set(rope.specs) == {"default"}
    (module,) = rotary_modules(config).values()
    assert_same(
        rope.specs["default"], module.inv_freq, module.attention_scaling, config.max_position_embeddings
    )
    assert rope.max_position_embeddings == config.max_position_embeddings
    assert rope.model_type == config.model_type


@pytest.mark.parametrize("model_type", FLAT)
def test_default_config_of(model_type):
    config = config_class(model_type)()
    assert_reads_as(config, config.to_dict())


@pytest.mark.parametrize("model_type", NESTED)
def test_default_config_by_layer_type_of(model_type):
    config = config_class(model_type)()
    rope = rope_from_config(json.loads(json.dumps(config.to_dict(), default=str)))
    (module,) = {type(m): m for m in rotary_modules(config).values()}.values()
    assert len(rope.specs) == 2
    for layer, spec in rope.specs.items():
        assert_same(
            spec, getattr(module, f"{layer}_inv_freq"), getattr(module, f"{layer}_attention_scaling"), None
        )


SCALED = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512},
    {"rope_type": "yarn", "factor": 8.0},
    {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 512},
    {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2, "truncate": False},
    {"rope_type": "yarn", "factor": 8.0, "beta_fast": None, "mscale": 1.0, "mscale_all_dim": 0.8},
    {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.25},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    {
        "rope_type": "longrope",
        "short_factor": [1.0 + j / 32 for j in range(32)],
        "long_factor": [2.0 + j for j in range(32)],
        "original_max_position_embeddings": 1024,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.5},
]


@pytest.mark.parametrize("scaling", SCALED, ids=lambda s: "-".join(s))
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "rope_scaling with type"])
def test_scaled_llama_in_both_spellings(scaling, spelling):
    data = {**LLAMA, "rope_theta": 50000.0}
    if spelling == "rope_parameters":
        data = {**LLAMA, "rope_parameters": {**scaling, "rope_theta": 50000.0}}
    elif spelling == "rope_scaling":
        data["rope_scaling"] = scaling
    else:
        data["rope_scaling"] = {("type" if k == "rope_type" else k): v for k, v in scaling.items()}
    ours = rope_from_config(copy.deepcopy(data))
    config = config_class("llama")(**{k: v for k, v in copy.deepcopy(data).items() if k != "model_type"})
    (module,) = rotary_modules(config).values()
    served = 1024 if scaling["rope_type"] == "longrope" else config.max_position_embeddings
    assert_same(ours.specs["default"], module.inv_freq, module.attention_scaling, served)
    assert ours.specs["default"].rope_theta == 50000.0


V4 = [
    {"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 20000},
    {"model_type": "gpt_neox"},
    {"model_type": "stablelm"},
    {"model_type": "stablelm", "partial_rotary_factor": 0.5, "rope_theta": 1000000},
    {"model_type": "phi", "rope_theta": 10000.0},
    {"model_type": "glm4", "head_dim": 64, "rope_theta": 10000.0},
    {"model_type": "llama"},
    {"model_type": "mixtral", "head_dim": None},
    {
        "model_type": "qwen3",
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    },
    {"model_type": "phi3", "original_max_position_embeddings": 512, "partial_rotary_factor": 0.5}
    | {"rope_scaling": {"type": "longrope", "short_factor": [1.5] * 16, "long_factor": [8.0] * 16}},
]


@pytest.mark.parametrize("given", V4, ids=lambda g: "-".join((g["model_type"], *g)))
def test_version_4_spelling(given):
    data = {**LLAMA, "max_position_embeddings": 2048, **given}
    config = config_class(data["model_type"])(
        **{
            k: v
            for k, v in copy.deepcopy(data).items()
            if k not in ("model_type", "head_dim") or (v and k != "model_type")
        }
    )
    (module,) = rotary_modules(config).values()
    rope = rope_from_config(data)
    longrope = data["model_type"] == "phi3"
    assert_same(rope.specs["default"], module.inv_freq, module.attention_scaling, 512 if longrope else None)


def test_gemma_3_in_version_4_spelling_as_published():
    data = {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    rope = rope_from_config(data)
    config = config_class("gemma3_text")(
        hidden_size=2560, rope_scaling={"factor": 8.0, "rope_type": "linear"}
    )
    (module,) = {type(m): m for m in rotary_modules(config).values()}.values()
    assert rope.specs["full_attention"].scaling == Linear(factor=8.0)
    assert rope.specs["sliding_attention"] == RopeSpec(head_dim=256, rope_theta=10000.0)
    for layer, spec in rope.specs.items():
        assert_same(spec, getattr(module, f"{layer}_inv_freq"), 1.0, None)
    local = {**data["text_config"], "rope_theta": 5e5, "rope_local_base_freq": 20000}
    own = rope_from_config(local)
    assert [s.rope_theta for s in own.specs.values()] == [5e5, 20000]


@pytest.mark.parametrize("model_type", [*defaults.ROPE_THETA, *defaults.LAYER_THETA])
def test_defaults_are_those_of_transformers(model_type):
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    config = CONFIG_MAPPING[model_type]()
    head_dim = getattr(type(config), "head_dim", None)
    assert defaults.HEAD_DIM.get(model_type) == (head_dim if isinstance(head_dim, int) else None)
    if model_type in ("gptj", "codegen"):
        return
    parameters = config.rope_parameters
    if model_type in defaults.LAYER_THETA:
        full, sliding = defaults.LAYER_THETA[model_type]
        assert parameters["full_attention"]["rope_theta"] == full
        assert parameters["sliding_attention"]["rope_theta"] == (sliding or full)
        return
    assert parameters["rope_type"] == "default"
    assert parameters["rope_theta"] == defaults.ROPE_THETA[model_type]
    assert parameters.get("partial_rotary_factor", 1.0) == defaults.PARTIAL_ROTARY_FACTOR.get(model_type, 1.0)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5", "opt", "bloom", "mamba", "roberta"])
def test_models_without_rope_are_refused(model_type):
    with pytest.raises(
        ValueError, match=f"no rotary position embedding in .*'{model_type}': it would have one of"
    ):
        rope_from_config(config_class(model_type)().to_dict())
