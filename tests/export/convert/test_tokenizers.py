"""Tokenizers in a GGUF file."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from tests.export.convert.tiny import run
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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
