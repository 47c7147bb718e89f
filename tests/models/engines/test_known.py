"""The lists of known model types against the installed library; what stands before every reader."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name

from resrope.models.engines import ENGINES, known, readings
from resrope.models.engines.reading import QUERY_SCALE_FROM_LENGTH, SOFTMAX_FROM_YARN
from resrope.models.engines.transformers import read
from resrope.models.engines.vllm import read as read_vllm

SIZES = {"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 2048}
LLAMA = {"model_type": "llama", **SIZES, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
GPTJ = {"n_embd": 256, "n_head": 2, "n_positions": 2048, "rotary_dim": 64}
NAMES = {
    "transformers-5": "transformers 5",
    "transformers-4": "transformers 4",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "mlx": "MLX-LM",
    "llama.cpp": "llama.cpp",
}
MUST = (
    "llama mistral mixtral qwen2 qwen3 gemma2 gemma3 gemma3_text phi phi3 gpt_neox stablelm olmo2 olmo3 "
    "cohere cohere2 glm glm4 granite starcoder2 smollm3 falcon gpt_oss deepseek_v3 qwen2_vl exaone4 "
    "ernie4_5 nemotron persimmon gemma"
).split()


def modeling(name: str) -> str:
    """The source of the modeling files of a model type, with or without its suffix."""
    full = name if name in CONFIG_MAPPING else f"{name}_text"
    assert full in CONFIG_MAPPING, name
    folder = Path(transformers.__file__).parent / "models" / model_type_to_module_name(full)
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py"))


@pytest.mark.parametrize("name", sorted(known.TRANSFORMERS_5))
def test_every_known_type_goes_through_the_rope_parameters(name):
    assert re.search("ROPE_INIT_FUNCTIONS|rope_parameters", modeling(name))


@pytest.mark.parametrize("name", sorted(SOFTMAX_FROM_YARN))
def test_types_whose_softmax_scale_depends_on_yarn(name):
    assert 'rope_parameters.get("mscale_all_dim"' in modeling(name)


@pytest.mark.parametrize("name", sorted(QUERY_SCALE_FROM_LENGTH))
def test_types_whose_queries_depend_on_the_length(name):
    assert 'rope_parameters.get("llama_4_scaling_beta")' in modeling(name)


def test_no_known_type_reads_more_than_the_lists_say():
    for name in known.TRANSFORMERS_5:
        source = modeling(name)
        assert ("mscale_all_dim" in source) == (name in SOFTMAX_FROM_YARN), name
        assert ("llama_4_scaling_beta" in source) == (name in QUERY_SCALE_FROM_LENGTH), name


def test_lists_build_on_each_other():
    assert {name.removesuffix("_text") for name in MUST} <= known.TRANSFORMERS_5
    # All of them start from the config that transformers 5 builds.
    for names in (known.VLLM - {"phimoe"}, known.SGLANG, known.LLAMA_CPP):
        assert names <= known.TRANSFORMERS_5


@pytest.mark.parametrize(
    "kind", ["foobar", "bert", "t5", "mpt", "internlm2", "chatglm", "qwen", 5, None, [], ["x"]]
)
def test_unknown_types_are_refused_by_every_engine(kind):
    made = readings({**LLAMA, "model_type": kind, "rope_scaling": YARN})
    assert list(made) == list(ENGINES) == list(NAMES)
    for name, reading in made.items():
        said = f"resrope does not know how {NAMES[name]} rotates {kind or 'unknown'} models"
        assert (reading.refusal, reading.tables) == (said, {})


def test_a_class_of_the_engines_own_goes_before_the_models_code():
    """Without trust_remote_code a known model type gets the engine's class, whatever auto_map says."""
    own = {**LLAMA, "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    assert readings(own) == readings(LLAMA)


@pytest.mark.parametrize("kind", ["gptj", "codegen"])
def test_types_with_a_base_of_their_own(kind):
    """Base 10000 whatever the config says, as the library's own sinusoids."""
    import importlib

    import torch

    own = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    sines = own.create_sinusoidal_positions(2, 64)[1, :32]
    plain = {"model_type": kind, **GPTJ}
    for name in ("transformers-5", "transformers-4"):
        for config in (plain, {k: v for k, v in plain.items() if k != "rotary_dim"}):
            reading = ENGINES[name](config)
            assert torch.equal(torch.tensor(reading.tables["default"].inv_freq).sin(), sines)
        assert ENGINES[name](plain).ignored == ()
        for asked in (
            {"rope_scaling": YARN},
            {"rope_parameters": {"rope_theta": 5e5}},
            {"rope_theta": 5e5},
            {"rope_scaling": {"rope_type": "spiral"}},
        ):
            other = ENGINES[name]({**plain, **asked})
            assert other.tables == reading.tables
            assert other.ignored == (
                f"{NAMES[name]} rotates {kind} models with base 10000, unscaled, whatever the config says.",
            )
    assert "does not know" in (read_vllm(plain).refusal or "")


@pytest.mark.parametrize("kind", ["cwm", "minicpm3", "gemma4_text", "jetmoe"])
def test_head_sizes_that_only_the_class_knows(kind):
    for reading in readings({**LLAMA, "model_type": kind}).values():
        assert reading.refusal is not None
    assert (read({**LLAMA, "model_type": kind}).refusal or "").startswith(
        "resrope does not know the head size"
    )


def test_vllm_hands_some_types_to_transformers():
    scaling = {**YARN, "attention_factor": 1.5, "truncate": False}
    config = {**LLAMA, "model_type": "olmo2", "rope_scaling": scaling}
    assert read_vllm(config).tables == read(config).tables
    assert read_vllm(config).engine == "vllm"


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": "4"},
        {"rope_type": "yarn", "factor": [4]},
        {"rope_type": "yarn", "factor": -4.0},
        {"rope_type": "dynamic", "factor": 10**400},
        {"rope_type": "longrope", "short_factor": 1, "long_factor": "x"},
        {"rope_type": ["yarn"], "factor": 2.0},
    ],
    ids=str,
)
def test_what_no_reader_can_take_is_refused_in_one_line(scaling):
    for name, reading in readings({**LLAMA, "rope_scaling": scaling}).items():
        plain = name == "llama.cpp" and scaling["rope_type"] not in ("yarn",)
        assert plain or reading.refusal is not None, name
        assert "\n" not in (reading.refusal or "")
