"""The reading of transformers 5 against the rotary modules that the library itself builds."""

from __future__ import annotations

import copy
import importlib
import warnings
from typing import Any

import pytest

pytest.importorskip("transformers")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from resrope.models.engines import ENGINES
from resrope.models.engines.transformers import read

SIZES = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
ARCHITECTURES = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "gemma",
    "gemma2",
    "phi",
    "phi3",
    "phimoe",
    "gpt_neox",
    "stablelm",
    "olmo2",
    "cohere",
    "cohere2",
    "glm4",
    "granite",
    "starcoder2",
    "smollm3",
    "falcon",
    "persimmon",
    "nemotron",
    "recurrent_gemma",
    "gemma3_text",
    "gemma3n_text",
    "olmo3",
    "modernbert",
]
ROUND = [1.0 + j / 64 for j in range(128)]
LONG = [2.0 + j / 64 for j in range(128)]


def scalings(features: int) -> dict[str, dict[str, Any]]:
    longrope = {"short_factor": ROUND[:features], "long_factor": LONG[:features]}
    return {
        "plain": {},
        "linear": {"rope_type": "linear", "factor": 3.0},
        "dynamic": {"rope_type": "dynamic", "factor": 3.0},
        "yarn": {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 700},
        "yarn with all": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 256,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.25,
            "truncate": False,
        },
        "yarn without factor": {"rope_type": "yarn", "original_max_position_embeddings": 256},
        "llama3": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 300,
        },
        "longrope": {
            "rope_type": "longrope",
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            **longrope,
        },
        "longrope with factor": {
            "rope_type": "longrope",
            "original_max_position_embeddings": 2048,
            "attention_factor": 1.25,
            "short_mscale": 1.25,
            "long_mscale": 1.25,
            **longrope,
        },
        "unknown": {"rope_type": "resonance_yarn", "factor": 2.0},
        "su": {"rope_type": "su", "original_max_position_embeddings": 512, **longrope},
    }


def library_tables(data: dict[str, Any]) -> dict[str, tuple[tuple[float, ...], float]] | None:
    """By layer type, what the library's own module holds; None where config or module raise."""
    data = copy.deepcopy(data)
    cls = CONFIG_MAPPING[data.pop("model_type")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = cls(**data)
            (made, *_) = modules(config)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            return None
        except Exception as error:
            if "Validation" not in type(error).__name__:
                raise
            return None
    found = {}
    for name, buffer in made.named_buffers():
        layer = name.removesuffix("inv_freq").rstrip("_")
        if not name.endswith("inv_freq") or layer.endswith("original"):
            continue
        factor = getattr(made, f"{layer}_attention_scaling" if layer else "attention_scaling", 1.0)
        found[layer or "default"] = (tuple(buffer.tolist()), factor)
    return found


def modules(config: Any) -> list[Any]:
    name = type(config).__module__.replace("configuration_", "modeling_")
    prefix = type(config).__name__.removesuffix("Config").removesuffix("Text")
    classes = [
        c
        for n, c in vars(importlib.import_module(name)).items()
        if n.startswith(prefix) and n.endswith("RotaryEmbedding") and "Vision" not in n and "Audio" not in n
    ]
    return [c(config) for c in classes]


def features(model_type: str) -> int:
    table = library_tables({"model_type": model_type, **SIZES})
    assert table is not None
    return len(next(iter(table.values()))[0])


def assert_read_as_built(data: dict[str, Any]) -> bool:
    """Equal to the last bit, or refused by both; whether it was built."""
    built = library_tables(data)
    ours = read(copy.deepcopy(data))
    if built is None:
        assert ours.refusal is not None, ours
        assert ours.tables == {}
        return False
    assert ours.refusal is None, ours.refusal
    assert set(ours.tables) == set(built)
    for layer, (inv_freq, factor) in built.items():
        assert ours.tables[layer].inv_freq == inv_freq
        assert ours.tables[layer].attention_factor == factor
    return True


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_type_in_every_spelling(model_type):
    n = features(model_type)
    built = 0
    for scaling in scalings(n).values():
        old = {("type" if k == "rope_type" else k): v for k, v in scaling.items()}
        base = {"model_type": model_type, **SIZES, "rope_theta": 30000.0}
        for data in (
            {**base, "rope_scaling": scaling},
            {**base, "rope_scaling": old},
            {**base, "rope_parameters": {"rope_theta": 50000.0, **scaling}},
            {**base, "rope_scaling": scaling, "original_max_position_embeddings": 1024},
            {**base, "rope_scaling": scaling, "rope_parameters": {"rope_type": "linear", "factor": 9.0}},
        ):
            built += assert_read_as_built(data)
    assert built >= 4


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma3n_text", "olmo3", "modernbert"])
def test_every_type_by_layer(model_type):
    built = 0
    for scaling in scalings(128 if model_type.startswith("gemma") else 32).values():
        wide = {"rope_theta": 50000.0, **(scaling or {"rope_type": "default"})}
        data = {"model_type": model_type, **SIZES, "rope_theta": 30000.0}
        layers = {"full_attention": wide, "sliding_attention": {"rope_type": "default", "rope_theta": 7000.0}}
        built += assert_read_as_built({**data, "rope_parameters": layers})
        built += assert_read_as_built({**data, "rope_parameters": {"full_attention": wide}})
    assert built >= 4


@pytest.mark.parametrize("model_type", ["mixtral", "minimax"])
def test_models_that_need_head_dim(model_type):
    yarn = scalings(32)["yarn"]
    data = {"model_type": model_type, **SIZES, "rope_scaling": yarn}
    assert not assert_read_as_built(data)
    assert "needs an explicit head_dim" in (read(data).refusal or "")
    assert assert_read_as_built({**data, "head_dim": 64})


@pytest.mark.parametrize("kind", ["gpt_oss", "apertus", "cwm", "ministral3"])
def test_classes_that_scale_where_the_config_does_not(kind):
    bare = {"model_type": kind, **SIZES, "head_dim": 64, "max_position_embeddings": 1 << 20}
    for fields in ({}, {"rope_theta": 30000.0}, {"rope_scaling": None}, {"rope_parameters": None}):
        assert assert_read_as_built({**bare, **fields})
    assert "where a config gives no scaling" in read(bare).ignored[0]
    assert read({**bare, "rope_scaling": scalings(32)["yarn"]}).ignored == ()


def test_tables_beyond_the_original_length():
    data = {"model_type": "llama", **SIZES, "rope_scaling": scalings(32)["longrope"]}
    ours = read(data)
    assert ours.boundary == 512
    assert ours.beyond is not None
    ratio = [
        a / b for a, b in zip(ours.tables["default"].inv_freq, ours.beyond["default"].inv_freq, strict=True)
    ]
    assert ratio == pytest.approx([b / a for a, b in zip(ROUND[:32], LONG[:32], strict=True)], rel=1e-6)
    dynamic = read({"model_type": "llama", **SIZES, "rope_scaling": scalings(32)["dynamic"]})
    assert dynamic.boundary == 2048
    assert dynamic.beyond is not None
    # 10000 · (3 · 3 - 2)^(64/62), to the last frequency's power 62/64.
    base = 10000 * 7 ** (64 / 62)
    assert dynamic.beyond["default"].inv_freq[-1] == pytest.approx(base ** (-62 / 64), rel=1e-6)


def test_every_engine_reads_a_plain_llama_alike():
    data = {"model_type": "llama", **SIZES, "rope_theta": 10000.0}
    exact = [10000.0 ** (-2 * j / 64) for j in range(32)]
    for name, engine in ENGINES.items():
        ours = engine(data)
        assert ours.engine == name
        assert (ours.refusal, ours.ignored, ours.beyond) == (None, (), None)
        assert ours.tables["default"].inv_freq == pytest.approx(exact, rel=3e-6)
