"""A Hugging Face folder as a GGUF file: tiny models that transformers saves, read with gguf.GGUFReader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

from tokenizers import decoders, models, normalizers, pre_tokenizers, processors  # noqa: E402

from resrope import RopeSpec, Yarn, frequencies  # noqa: E402
from resrope.export.convert import convert  # noqa: E402
from resrope.models import read_config  # noqa: E402
from resrope.models.gguf import gguf_provenance  # noqa: E402

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
HEADS, KV_HEADS = 4, 2
CONFIGS: dict[str, Any] = {
    "llama": (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {"head_dim": 32, "sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, {}),
    "granite": (transformers.GraniteConfig, {"logits_scaling": 2.0, "attention_multiplier": 0.5}),
    "phi3": (transformers.Phi3Config, {"partial_rotary_factor": 0.5}),
}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (folder that transformers wrote, its state dict, its table), made once."""
    made: dict[Any, Any] = {}

    def model(name, dtype=torch.float32, **saving):
        key = (name, dtype, tuple(saving))
        if key not in made:
            cls, own = CONFIGS[name]
            torch.manual_seed(0)
            net = transformers.AutoModelForCausalLM.from_config(cls(**BASE, **own)).to(dtype)
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter)
            folder = tmp_path_factory.mktemp("models") / name
            net.save_pretrained(folder, **saving)
            made[key] = (folder, {k: v.clone() for k, v in net.state_dict().items()}, table_for(net.config))
        return made[key]

    return model


def run(out: Path, model, **given):
    folder, state, table = model
    options = {"table": table, "length": 512, "provenance": {"a": 1}, "no_vocab": True}
    convert(folder, out, **{**options, **given})
    return gguf.GGUFReader(out), state, table


def numbers(reader) -> dict[str, Any]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


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


def byte_level(pre, **model) -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(["<|end|>", *letters, "he", "hel", "Ġw"])}
    made = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[("h", "e"), ("he", "l"), ("Ġ", "w")], **model)
    )
    made.pre_tokenizer, made.decoder = pre, decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|start|>"])
    made.add_tokens(["<think>"])
    return made


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


def split(pattern):
    return sequence(
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        PRE(add_prefix_space=False, use_regex=False),
    )


PRE = pre_tokenizers.ByteLevel
PRES = {
    "gpt-2": PRE(add_prefix_space=False),
    "smollm": sequence(pre_tokenizers.Digits(individual_digits=True), PRE(add_prefix_space=False)),
    "llama-bpe": split(SPLIT),
    "qwen2": split(SPLIT.replace("{1,3}", "")),
    "tekken": split(TEKKEN),
}


@pytest.fixture
def folder(saved, tmp_path):
    copy = tmp_path / "folder"
    shutil.copytree(saved("llama")[0], copy)
    return copy


def tokens_of(folder, tokenizer, tmp_path, saved, config=None) -> dict[str, Any]:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    reader, _, _ = run(tmp_path / "out.gguf", (folder, *saved("llama")[1:]), no_vocab=False)
    found = {k: f.contents() for k, f in reader.fields.items() if k.startswith("tokenizer.")}
    return {k.removeprefix("tokenizer.").removeprefix("ggml."): v for k, v in found.items()}


@pytest.mark.parametrize("name", PRES)
def test_byte_level_tokenizers(folder, tmp_path, saved, name):
    made = byte_level(PRES[name])
    made.normalizer = normalizers.NFC() if name == "qwen2" else None
    made.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", pair="<|start|> $A $B", special_tokens=[("<|start|>", 260)]
    )
    config = {"bos_token": "<|start|>", "eos_token": {"content": "<|end|>"}, "chat_template": "{{ x }}"}
    got = tokens_of(folder, made, tmp_path, saved, config)
    vocab = {i: text for text, i in made.get_vocab().items()}
    assert got["model"] == "gpt2"
    assert got["pre"] == name
    assert got["tokens"] == [vocab.get(i, f"[PAD{i}]") for i in range(300)]
    assert got["token_type"] == [3, *[1] * 259, 3, 4, *[5] * 38]
    assert got["merges"] == ["h e", "he l", "Ġ w"]
    assert (got["bos_token_id"], got["eos_token_id"]) == (260, 0)
    assert (got["add_bos_token"], got["add_eos_token"]) == (True, False)
    assert got["chat_template"] == "{{ x }}"


def test_sentencepiece_tokenizers(folder, tmp_path, saved):
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", "a", "b", "ab", "▁ab", "▁a"]
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab"), ("▁a", "b")]
    made = tokenizers.Tokenizer(
        models.BPE(
            vocab={p: i for i, p in enumerate(pieces)}, merges=merges, unk_token="<unk>", byte_fallback=True
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    got = tokens_of(
        folder, made, tmp_path, saved, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    )
    assert (got["model"], got["pre"], got["add_space_prefix"]) == ("llama", "default", True)
    assert got["tokens"][:265] == pieces
    assert got["token_type"][:265] == [2, 3, 3, *[6] * 256, *[1] * 6]
    assert "merges" not in got
    scores = dict(zip(got["tokens"], got["scores"], strict=True))
    assert (scores["▁a"], scores["ab"], scores["▁ab"]) == (0, -1, -2)  # by the first merge that makes them
    assert all(scores[text] < -2 for text in ("a", "▁", "<0x41>"))
    assert (got["unknown_token_id"], got["bos_token_id"], got["eos_token_id"]) == (0, 1, 2)


@pytest.mark.parametrize(
    "pre",
    [
        split(SPLIT.replace("{1,3}", "{1,2}")),
        sequence(pre_tokenizers.Digits(individual_digits=False), PRE(add_prefix_space=False)),
        PRE(add_prefix_space=True),
        PRE(add_prefix_space=False, use_regex=False),
        sequence(pre_tokenizers.Split(tokenizers.Regex(SPLIT), "removed"), PRE(False, use_regex=False)),
        pre_tokenizers.Whitespace(),
    ],
)
def test_an_unknown_pre_tokenizer_is_refused(folder, tmp_path, saved, pre):
    with pytest.raises(ValueError, match=r"this pre-tokenizer is none of llama-bpe, .*convert_hf_to_gguf"):
        tokens_of(folder, byte_level(pre), tmp_path, saved)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), "must be BPE, got 'WordLevel'"),
        (tokenizers.Tokenizer(models.BPE({"a": 300}, [])), "token 300 is beyond vocab_size 300"),
        (byte_level(PRES["gpt-2"], byte_fallback=True), "byte_fallback and other steps"),
    ],
)
def test_other_tokenizers_are_refused(folder, tmp_path, saved, made, message):
    with pytest.raises(ValueError, match=message) as error:
        tokens_of(folder, made, tmp_path, saved)
    assert "\n" not in str(error.value)


def test_no_tokenizer(saved, tmp_path):
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json; save it there"):
        run(tmp_path / "out.gguf", saved("llama"), no_vocab=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gemma2"},
            "model_type must be one of llama, mistral, qwen2, granite, phi3, got 'gemma2'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
        ({"sliding_window": 64}, "sliding_window 64 is shorter than 512 tokens"),
        ({"quantization_config": {"bits": 4}}, "quantised weights cannot be converted"),
        ({"head_dim": 32}, "rotary_dim/2 = 16 frequencies, got 8"),
        ({"num_hidden_layers": 3}, r"the weights lack blk\.2\."),
        ({"num_hidden_layers": 1}, r"weight model\.layers\.1\..* has no place in architecture llama"),
        ({"intermediate_size": None}, "intermediate_size must be an integer"),
    ],
)
def test_configs_that_are_refused(folder, saved, tmp_path, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path / "out.gguf", (folder, *saved("llama")[1:]))
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_numbers_beyond_float16(folder, saved, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"][7, 7] = 65536.0
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"output\.weight has numbers beyond float16; choose dtype bf16 or f32"
    ):
        run(tmp_path / "out.gguf", (folder, *saved("llama")[1:]), dtype="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_bad_paths(folder, saved, tmp_path, monkeypatch):
    model = saved("llama")
    with pytest.raises(ValueError, match=r"config\.json exists already"):
        run(folder / "config.json", model)
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        run(tmp_path / "out.gguf", (tmp_path, *model[1:]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="Too little space"):
        run(tmp_path / "out.gguf", model)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights"):
        run(tmp_path / "out.gguf", (folder, *model[1:]))
    sharded = saved("llama", max_shard_size="50KB")
    copy = tmp_path / "sharded"
    shutil.copytree(sharded[0], copy)
    gone = sorted(copy.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        run(tmp_path / "out.gguf", (copy, *model[1:]))
    assert not (tmp_path / "out.gguf").exists()
