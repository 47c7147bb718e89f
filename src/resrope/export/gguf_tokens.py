"""A folder's tokenizer.json as the metadata from which llama.cpp tokenizes.

llama.cpp knows pre-tokenizers by name (llama-vocab.cpp in llama-cpp-python 0.3.36). A tokenizer is
recognised by what its tokenizer.json says; one that is not known for certain is refused, because llama.cpp
would split text in another way without a word. Two things it does by itself: its tekken takes combining
marks for something else than letters, and after a special token it puts a space before text wherever
SentencePiece puts one at the start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resrope.export import gguf_file as file

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_ELSEWHERE = "convert the folder with llama.cpp's convert_hf_to_gguf.py, then extend that GGUF file"
_CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# The regular expression of the one Split before ByteLevel, and llama.cpp's name for it.
_SPLITS = {
    _CASED + r"\p{N}{1,3}" + _ENDS: "llama-bpe",
    _CASED + r"\p{N}" + _ENDS: "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    + _ENDS.replace(r"[\r\n]*|\s*", r"[\r\n/]*|\s*"): "tekken",
}


def tokenizer_fields(folder: Path, vocab_size: int) -> dict[str, bytes]:
    """The tokenizer.* pairs for the tokenizer of ``folder``; ids without a token get an unused one.

    vocab_size: rows of the embedding. Raises ValueError when there is no tokenizer.json or llama.cpp has
    no tokenizer that is known to do the same.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no tokenizer.json; save it there with AutoTokenizer.save_pretrained, "
            f"or {_ELSEWHERE}"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    model = data.get("model") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"{path}: tokenizer model must be BPE, got {model.get('type')!r}; {_ELSEWHERE}")
    tokens, types = _tokens(data, vocab_size)
    common = {
        "tokens": file.strings("tokenizer.ggml.tokens", tokens),
        "token_type": file.int32s("tokenizer.ggml.token_type", types),
    }
    own = _sentencepiece(data, tokens) if model.get("byte_fallback") else _byte_level(data, path)
    return _prefixed({**own, **common, **_special(folder, vocab_size, merges=not model.get("byte_fallback"))})


def no_vocabulary() -> dict[str, bytes]:
    """The pairs of a file without tokenizer: ids in, logits out."""
    return {"tokenizer.ggml.model": file.string("tokenizer.ggml.model", "no_vocab")}


def _prefixed(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    return {k if k.startswith("tokenizer.") else f"tokenizer.ggml.{k}": v for k, v in fields.items()}


def _tokens(data: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Every id's text and type."""
    model, added = data["model"], data.get("added_tokens") or []
    found = {i: (text, _type(text, model)) for text, i in model["vocab"].items()}
    for token in added:
        kind = _CONTROL if token.get("special") else _USER_DEFINED
        if token["content"] == model.get("unk_token"):
            kind = _UNKNOWN
        found[token["id"]] = (token["content"], kind)
    if max(found) >= vocab_size:
        raise ValueError(f"token {max(found)} is beyond vocab_size {vocab_size}")
    tokens = [found.get(i, (f"[PAD{i}]", _UNUSED)) for i in range(vocab_size)]
    return [text for text, _ in tokens], [kind for _, kind in tokens]


def _type(text: str, model: Mapping[str, Any]) -> int:
    if model.get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", text):
        return _BYTE
    return _UNKNOWN if text == model.get("unk_token") else _NORMAL


def _byte_level(data: Mapping[str, Any], path: Path) -> dict[str, bytes]:
    """GPT-2's kind: bytes as letters, merges by rank, text split by a regular expression first."""
    pre = _pre_tokenizer(data)
    if pre is None:
        raise ValueError(
            f"{path}: this pre-tokenizer is none of llama-bpe, qwen2, tekken, smollm, gpt-2; {_ELSEWHERE}"
        )
    return {
        "model": file.string("tokenizer.ggml.model", "gpt2"),
        "pre": file.string("tokenizer.ggml.pre", pre),
    }


def _pre_tokenizer(data: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for it, None when it is not known."""
    if _types(data.get("normalizer")) - {"NFC"}:
        return None
    given = data.get("pre_tokenizer") or {}
    steps = given.get("pretokenizers", []) if given.get("type") == "Sequence" else [given]
    *before, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    splits = last.get("use_regex", True)
    match before:
        case []:
            return "gpt-2" if splits else None
        case [{"type": "Digits", "individual_digits": True}]:
            return "smollm" if splits else None
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", **rest}]:
            return None if splits or rest.get("invert") else _SPLITS.get(pattern)
        case _:
            return None


def _types(component: Any) -> set[str]:
    """The types of a normalizer or pre-tokenizer and of the parts of a sequence."""
    if not component:
        return set()
    parts = component.get("normalizers") or component.get("pretokenizers")
    return {component["type"]} if parts is None else set().union(*(_types(part) for part in parts))


def _sentencepiece(data: Mapping[str, Any], tokens: list[str]) -> dict[str, bytes]:
    """SentencePiece's kind: spaces as ▁, bytes for what is not in the vocabulary, merges by score.

    A piece's score is minus the rank of the first merge that makes it, so that pieces merge in the order
    of tokenizer.json; what no merge makes comes last.
    """
    normalizer, pre = data.get("normalizer"), data.get("pre_tokenizer")
    if _types(normalizer) - {"Prepend", "Replace"} or _types(pre) - {"Metaspace"}:
        raise ValueError(f"a tokenizer with byte_fallback and other steps than ▁ for spaces; {_ELSEWHERE}")
    prefix = "Prepend" in _types(normalizer) or (pre or {}).get("prepend_scheme") in ("always", "first")
    rank: dict[str, int] = {}
    for i, merge in enumerate(data["model"]["merges"]):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), i)
    scores = [-float(rank.get(token, len(rank))) for token in tokens]
    return {
        "model": file.string("tokenizer.ggml.model", "llama"),
        "pre": file.string("tokenizer.ggml.pre", "default"),
        "add_space_prefix": file.boolean("tokenizer.ggml.add_space_prefix", prefix),
        "scores": file.float32s("tokenizer.ggml.scores", scores),
    }


def _special(folder: Path, vocab_size: int, *, merges: bool) -> dict[str, bytes]:
    """Merges, ids of special tokens, whether bos and eos are added, and the chat template."""
    from gguf import SpecialVocab

    vocab = SpecialVocab(folder, load_merges=merges, n_vocab=vocab_size)
    fields = {"merges": file.strings("tokenizer.ggml.merges", vocab.merges)} if merges else {}
    for kind, token in vocab.special_token_ids.items():
        name = _ID_NAMES.get(kind, f"{kind}_token_id")
        fields[name] = file.uint32(f"tokenizer.ggml.{name}", token)
    # Where nothing is said llama.cpp assumes by kind of tokenizer; the folder's own answer is no.
    for kind, adds in {"bos": False, "eos": False, **vocab.add_special_token}.items():
        name = f"add_{kind}_token"
        fields[name] = file.boolean(f"tokenizer.ggml.{name}", adds)
    template = _template(vocab.chat_template)
    if template is not None:
        fields["tokenizer.chat_template"] = file.string("tokenizer.chat_template", template)
    return fields


_ID_NAMES = {"unk": "unknown_token_id", "sep": "seperator_token_id", "pad": "padding_token_id"}


def _template(given: Any) -> str | None:
    """The chat template; of several, the one that is called default."""
    if given is None or isinstance(given, str):
        return given
    return next((str(t["template"]) for t in given if t.get("name") == "default"), None)
