"""vLLM, SGLang, MLX-LM and llama.cpp: numbers by hand from each engine's formula, and of MLX-LM itself."""

from __future__ import annotations

import math

import pytest

from resrope.models.engines import ENGINES, llamacpp, mlx, readings, sglang, vllm
from resrope.models.engines.transformers import read as stock

SIZES = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
LLAMA = {"model_type": "llama", **SIZES, "rope_theta": 30000.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256, "beta_fast": 16.0}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "short_factor": [1 + j / 64 for j in range(32)],
    "long_factor": [2 + j / 64 for j in range(32)],
}
EVEN = {**LONGROPE, "long_factor": LONGROPE["short_factor"], "attention_factor": 1.25}
PLAIN = [30000.0 ** (-2 * j / 64) for j in range(32)]


def llama(scaling, **fields):
    return {**LLAMA, **fields, "rope_scaling": scaling}


# MLX-LM 0.32.2, initialize_rope on a CPU: frequencies 1, 7, 15 and 31, and the scale.
MLX = {
    "yarn": (
        {**YARN, "attention_factor": 1.5, "truncate": False},
        [0.724586045007456, 0.05898644720760903, 0.0009960001935586313, 5.7504095819074865e-06],
        1.2079441541679836,
    ),
    "longrope": (
        {**LONGROPE, "attention_factor": 1.5},
        [0.35948455331239204, 0.04971368227138034, 0.0035660986860785136, 1.8517042405907747e-05],
        1.1055415967851334,
    ),
    "llama3": (
        {"rope_type": "llama3", "factor": 8.0},
        [0.724586045007456, 0.10486479372484953, 0.00796800154846905, 5.7504095819074865e-06],
        1.0,
    ),
}


@pytest.mark.parametrize("case", MLX)
def test_mlx_golden(case):
    scaling, inv_freq, factor = MLX[case]
    reading = mlx.read(llama(scaling))
    table = reading.tables["default"]
    assert [table.inv_freq[j] for j in (1, 7, 15, 31)] == pytest.approx(inv_freq, rel=1e-6)
    assert table.attention_factor == pytest.approx(factor, rel=1e-12)
    assert reading.beyond is None
    assert bool(reading.ignored) == (case != "llama3")


@pytest.mark.parametrize("model_type", ["cohere", "gemma2", "glm4", "phi", "stablelm", "starcoder2"])
def test_mlx_models_without_scaling(model_type):
    fields = {"head_dim": 64, "partial_rotary_factor": 1.0}
    reading = mlx.read(llama(YARN, model_type=model_type, **fields))
    assert reading.ignored == (f"MLX-LM applies no rope scaling to {model_type} models.",)
    assert reading.tables["default"].inv_freq == pytest.approx(PLAIN, rel=1e-6)
    assert reading.tables["default"].attention_factor == 1.0


def test_mlx_reads_the_old_spelling_alone_but_for_some():
    modern = {"model_type": "llama", **SIZES, "rope_parameters": {**YARN, "rope_theta": 5e5}}
    reading = mlx.read(modern)
    assert reading.tables["default"].inv_freq[16] == pytest.approx(10000.0**-0.5, rel=1e-6)
    assert "rope_theta, the scaling there is lost" in reading.ignored[0]
    newer = mlx.read({**modern, "model_type": "qwen3", "head_dim": 64})
    assert newer.ignored == ()
    assert newer.tables["default"].attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    assert "needs rope_theta" in (mlx.read({**modern, "model_type": "granite"}).refusal or "")


@pytest.mark.parametrize("engine", [vllm, sglang], ids=["vllm", "sglang"])
def test_longrope_takes_its_factor_from_the_mscales_or_the_lengths(engine):
    from_lengths = engine.read(llama(EVEN))
    # √(1 + ln(2048/512)/ln(512)) = √(1 + 2/9)
    assert from_lengths.tables["default"].attention_factor == pytest.approx(math.sqrt(11 / 9), rel=1e-12)
    assert "ignores attention_factor 1.25 of longrope" in from_lengths.ignored[0]
    given = engine.read(llama({**EVEN, "short_mscale": 1.25, "long_mscale": 1.25}))
    assert given.ignored == ()
    assert given.beyond is None
    assert given.tables == stock(llama(EVEN)).tables
    two = engine.read(llama(LONGROPE))
    assert two.boundary == 512
    assert two.beyond is not None
    assert two.beyond["default"].inv_freq[0] == 0.5


@pytest.mark.parametrize("engine", [vllm, sglang], ids=["vllm", "sglang"])
@pytest.mark.parametrize("model_type", ["cohere", "glm4"])
def test_longrope_refuses_models_that_rotate_pairs(engine, model_type):
    features = {"head_dim": 64, "partial_rotary_factor": 1.0}
    reading = engine.read(llama(EVEN, model_type=model_type, **features))
    assert f"refuses {model_type} models, which rotate pairs" in (reading.refusal or "")
    assert engine.read(llama(YARN, model_type=model_type, **features)).refusal is None


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "phi", "stablelm", "starcoder2", "olmo"])
def test_sglang_models_without_scaling(model_type):
    fields = {"head_dim": 64, "partial_rotary_factor": 1.0}
    reading = sglang.read(llama(EVEN, model_type=model_type, **fields))
    assert reading.ignored == (f"SGLang passes no rope scaling to {model_type} models.",)
    assert reading.tables["default"].inv_freq == pytest.approx(PLAIN, rel=1e-6)


def test_yarn_of_vllm_and_sglang():
    assert vllm.read(llama(YARN)).tables == sglang.read(llama(YARN)).tables == stock(llama(YARN)).tables
    wanted = llama({**YARN, "attention_factor": 1.5})
    assert vllm.read(wanted).tables["default"].attention_factor == 1.5
    reading = sglang.read(wanted)
    assert reading.tables["default"].attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    assert "SGLang ignores attention_factor 1.5 of yarn" in reading.ignored[0]
    times = sglang.read(llama({**YARN, "attn_factor": 2.0})).tables["default"].attention_factor
    assert times == pytest.approx(2 * (0.1 * math.log(8) + 1))


def test_dynamic_is_frozen_in_vllm_and_sglang():
    dynamic = llama({"rope_type": "dynamic", "factor": 3.0})
    assert vllm.read(dynamic).tables["default"].inv_freq == pytest.approx(PLAIN, rel=1e-6)
    assert vllm.read(dynamic).beyond is None
    # SGLang: at 3 · 2048 tokens, base · (3 · 3 - 2)^(64/62).
    last = sglang.read(dynamic).tables["default"].inv_freq[-1]
    assert last == pytest.approx((30000 * 7 ** (64 / 62)) ** (-62 / 64), rel=1e-6)


def test_llama_cpp():
    drops = llamacpp.read(llama(EVEN))
    assert drops.ignored == ("llama.cpp's converter drops longrope scaling of llama models: plain RoPE.",)
    assert drops.tables["default"].inv_freq == pytest.approx(PLAIN, rel=3e-6)
    phi3 = llama(LONGROPE, model_type="phi3", original_max_position_embeddings=512)
    kept = llamacpp.read(phi3)
    assert kept.tables["default"].attention_factor == pytest.approx(math.sqrt(11 / 9))
    assert kept.boundary == 512
    yarn = llamacpp.read(llama({**YARN, "attention_factor": 1.5, "truncate": False}))
    assert [s.split(" ")[2] for s in yarn.ignored] == ["attention_factor", "truncate:"]
    assert yarn.tables["default"].attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    both = {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}
    assert "ignores mscale and mscale_all_dim" in llamacpp.read(llama(both)).ignored[0]
    latent = {"model_type": "deepseek_v3", "qk_rope_head_dim": 64}
    deepseek = llamacpp.read(llama({**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, **latent))
    assert deepseek.tables["default"].attention_factor == 1.0
    linear = llamacpp.read(llama({"rope_type": "linear", "factor": 4.0}))
    assert linear.tables["default"].inv_freq == pytest.approx([f / 4 for f in PLAIN], rel=3e-6)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3["original_max_position_embeddings"] = 300
    assert llamacpp.read(llama(llama3)).ignored == ()
    assert "drops llama3" in llamacpp.read(llama(llama3, model_type="qwen2")).ignored[0]
    assert "wrong number of tensors" in (llamacpp.read(llama(llama3, model_type="smollm3")).refusal or "")
    assert "does not know helium" in (llamacpp.read(llama(None, model_type="helium")).refusal or "")


def test_llama_cpp_scales_the_full_layers_alone():
    layers = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 7000.0},
    }
    config = {"model_type": "gemma3_text", **SIZES, "head_dim": 64, "rope_parameters": layers}
    tables = llamacpp.read(config).tables
    assert tables["full_attention"].inv_freq[16] == pytest.approx(1e6**-0.5 / 8, rel=3e-6)
    assert tables["sliding_attention"].inv_freq[16] == pytest.approx(7000**-0.5, rel=3e-6)


def test_no_stock_engine_knows_a_registered_type():
    for reading in readings(llama({**YARN, "rope_type": "resonance_yarn"})).values():
        plain = reading.tables and reading.tables["default"].inv_freq == pytest.approx(PLAIN, rel=3e-6)
        assert reading.refusal is not None or (plain and reading.ignored)


def test_the_provenance_key_and_multimodal_configs_are_no_obstacle():
    outer = {"model_type": "llava", "text_config": {**llama(YARN), "resrope": {"anything": 1}}}
    for name, read in ENGINES.items():
        assert read(outer) == read(llama(YARN)), name
