"""A Hugging Face folder as a GGUF file: every weight and what its config says, read with gguf.GGUFReader."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from tests.export.convert.tiny import CONFIGS, numbers, run

from resrope import frequencies
from resrope.models import read_config
from resrope.models.gguf import gguf_provenance

HEADS, KV_HEADS = 4, 2


def halves(rows, heads):
    """From llama.cpp's order of rows, pairs side by side, back to transformers' half beside half."""
    found, dim = np.empty_like(rows), len(rows) // heads
    for head in range(heads):
        for i in range(dim // 2):
            found[head * dim + i] = rows[head * dim + 2 * i]
            found[head * dim + i + dim // 2] = rows[head * dim + 2 * i + 1]
    return found


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def expected_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, kind = name.rsplit(".", 1)
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    _, _, block, rest = stem.split(".", 3)
    return f"blk.{block}.{NAMES[rest]}.{kind}"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_arrives(saved, tmp_path, name):
    reader, state, _ = run(tmp_path / "out.gguf", saved(name))
    got = numbers(reader)
    for factor in ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"):
        got.pop(factor, None)
    if name == "tied":
        state = {k: v for k, v in state.items() if k != "lm_head.weight"}
    assert set(got) == {expected_name(k) for k in state}
    for key, value in state.items():
        data, new = got[expected_name(key)], expected_name(key)
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(new.split(".")[-2])
        data = halves(data, heads) if heads else data
        np.testing.assert_array_equal(data, value.numpy(), err_msg=key)
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32


@pytest.mark.parametrize("name", CONFIGS)
def test_the_metadata_say_what_the_config_says(saved, tmp_path, name):
    reader, _, table = run(tmp_path / "out.gguf", saved(name))
    config = json.loads((saved(name)[0] / "config.json").read_text())
    arch = {"granite": "granite", "phi3": "phi3"}.get(name, "llama")
    values = {k: f.contents() for k, f in reader.fields.items()}
    head_dim = config.get("head_dim") or 16
    own = {k.removeprefix(f"{arch}."): v for k, v in values.items() if k.startswith(f"{arch}.")}
    wanted = {
        "block_count": 2,
        "context_length": 512,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": np.float32(config["rms_norm_eps"]),
        "rope.freq_base": 10_000.0,
        "rope.dimension_count": 2 * len(table.inv_freq),
        "rope.scaling.attn_factor": np.float32(table.attention_factor),
        "vocab_size": 300,
    }
    if name == "granite":
        scales = {"attention.scale": 0.5, "logit_scale": 2.0, "embedding_scale": 1.0, "residual_scale": 1.0}
        wanted |= scales
    assert own == wanted
    assert values["general.architecture"] == arch
    assert values["general.file_type"] == 0
    assert values["tokenizer.ggml.model"] == "no_vocab"
    read = frequencies(read_config(tmp_path / "out.gguf").specs["default"])
    assert read.inv_freq == pytest.approx(table.inv_freq, rel=6.1e-8)
    assert gguf_provenance(tmp_path / "out.gguf") == {"a": 1}


@pytest.mark.parametrize(
    ("source", "dtype", "kind", "file_type"),
    [
        (torch.bfloat16, "source", "BF16", 32),
        (torch.float16, "source", "F16", 1),
        (torch.float32, "f16", "F16", 1),
        (torch.float32, "bf16", "BF16", 32),
        (torch.bfloat16, "f32", "F32", 0),
    ],
)
def test_dtypes(saved, tmp_path, source, dtype, kind, file_type):
    reader, state, _ = run(tmp_path / "out.gguf", saved("llama", source), dtype=dtype)
    kinds = {len(t.shape): t.tensor_type.name for t in reader.tensors}
    assert kinds == {1: "F32", 2: kind}
    assert reader.fields["general.file_type"].contents() == file_type
    target = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_array_equal(
        numbers(reader)["blk.1.ffn_up.weight"], state[name].to(target).float().numpy()
    )


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_fold(saved, tmp_path, name):
    plain, _, table = run(tmp_path / "plain.gguf", saved(name))
    folded, _, _ = run(tmp_path / "folded.gguf", saved(name), fold=True)
    arch = "phi3" if name == "phi3" else "llama"
    assert f"{arch}.rope.scaling.attn_factor" not in folded.fields
    old, new = numbers(plain), numbers(folded)
    scale = {k: np.ones(len(v)) for k, v in old.items()}
    for block in range(2):
        for kind in ("weight", "bias"):
            for row in range(64):
                rotary = row % 16 < 8 or name == "llama"
                key = f"blk.{block}.attn_{'q' if name == 'llama' else 'qkv'}.{kind}"
                if key in scale and rotary:
                    scale[key][row] = table.attention_factor**2
    for key, data in old.items():
        np.testing.assert_allclose(new[key].T, data.T * scale[key], rtol=6e-8, err_msg=key)


def test_shards_and_many_pieces(saved, tmp_path, monkeypatch):
    whole, _, _ = run(tmp_path / "whole.gguf", saved("llama"))
    monkeypatch.setattr("resrope.export.gguf_weights._PIECE", 1000)  # one head at a time
    sharded = saved("llama", max_shard_size="50KB")
    assert len(list(sharded[0].glob("*.safetensors"))) > 2
    parts, _, _ = run(tmp_path / "parts.gguf", sharded)
    assert {n: d.tobytes() for n, d in numbers(parts).items()} == {
        n: d.tobytes() for n, d in numbers(whole).items()
    }
