"""Texts as sequences of one exact length: tokenised once, kept under the hash of what decides them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resrope.files import atomic_write, beside
from resrope.longtext import hub
from resrope.longtext.extras import extra
from resrope.longtext.subject import fingerprint
from resrope.longtext.texts import Text, local_files, stream_texts

# Part of every key: another way of making chunks needs another number.
_FORMAT = "1"
_ARROW, _MANIFEST = "chunks.arrow", "chunks.json"
_FILE_BLOCK = 256

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What became of a text. tokens: without those that begin every chunk. chunks: made of it. left_over: its
    last tokens, too few for one more. digest: of its text."""

    name: str
    tokens: int
    chunks: int
    left_over: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """Sequences of ``length`` tokens on disk. prefix: the tokens that begin every one (BOS, if the tokenizer
    sets one). largest: the largest token id. folder: where they lie."""

    length: int
    prefix: tuple[int, ...]
    documents: tuple[Document, ...]
    largest: int
    key: str
    folder: Path

    def __len__(self) -> int:
        return sum(d.chunks for d in self.documents)

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(d.tokens for d in self.documents)

    @property
    def left_over(self) -> int:
        """Tokens in no chunk: ends of texts, and texts shorter than a chunk."""
        return sum(d.left_over for d in self.documents)

    def rows(self) -> Any:
        """The chunks as a memory-mapped ``datasets.Dataset`` with the column input_ids."""
        datasets = extra("datasets", "fine-tuning", among="finetune")
        return datasets.Dataset.from_file(str(self.folder / _ARROW)).with_format("numpy")

    def summary(self) -> str:
        """What was made of the texts, in one line: nothing goes unsaid."""
        share = self.left_over / self.tokens if self.tokens else 0.0
        short = sum(d.chunks == 0 for d in self.documents)
        too_short = f", among them {short} shorter than a chunk" if short else ""
        return (
            f"{len(self)} chunks of {self.length} tokens from {len(self.documents)} texts{too_short}; "
            f"{self.left_over:,} of {self.tokens:,} tokens left over at their ends ({share:.1%})"
        )


def prepare(
    sources: Sequence[str],
    tokenizer: Any,
    length: int,
    cache: Path,
    *,
    column: str | None = None,
    progress: Progress = lambda tokens: None,
) -> Chunks:
    """The chunks of ``sources``, from ``cache`` where the same texts were cut the same way before.

    No chunk spans two texts. Every one begins with what the tokenizer puts before a text; the end of a text
    that fills no chunk is left over, and counted. Texts are read and tokenised one at a time and written as
    they come. The key of the cache is a hash of the contents of local files (of those above 1 GiB size and
    time), of the commit of a hub data set, of the tokenizer and the length. progress: told of tokens read.

    Raises ValueError for what ``stream_texts`` refuses, and when not one chunk comes out.
    """
    prefix = tuple(tokenizer("", verbose=False).input_ids)
    end = tokenizer.eos_token_id
    prefix = prefix[:-1] if prefix and prefix[-1] == end != tokenizer.bos_token_id else prefix
    if length <= len(prefix):
        raise ValueError(f"length must be > {len(prefix)} (tokens that begin every chunk), got {length}")
    key = _key(sources, column, tokenizer, length)
    folder = cache / key
    if not (folder / _MANIFEST).is_file():
        texts = stream_texts(sources, column=column)
        _make(folder, texts, partial(_encode, tokenizer), prefix, length, progress)
    found = _read(folder, key)
    if not len(found):
        longest = max((d.tokens for d in found.documents), default=0)
        raise ValueError(
            f"the texts give no chunk of {length} tokens: the longest of {len(found.documents)} has {longest}"
        )
    return found


def _encode(tokenizer: Any, text: str) -> np.ndarray[Any, Any]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return np.asarray(ids, dtype=np.int32)


def split(tokens: np.ndarray[Any, Any], prefix: Sequence[int], length: int) -> np.ndarray[Any, Any]:
    """The chunks of one text, [chunks, length], each behind ``prefix``; what is left over is not among them.

    >>> split(np.arange(1, 8), [0], 4).tolist()
    [[0, 1, 2, 3], [0, 4, 5, 6]]
    """
    body = length - len(prefix)
    count = len(tokens) // body
    begun = np.tile(np.asarray(prefix, dtype=np.int32), (count, 1))
    return np.concatenate([begun, tokens[: count * body].reshape(count, body)], axis=1, dtype=np.int32)


def _make(
    folder: Path,
    texts: Iterator[Text],
    encode: Callable[[str], np.ndarray[Any, Any]],
    prefix: tuple[int, ...],
    length: int,
    progress: Progress,
) -> None:
    """Write a folder of chunks, whole or not at all; who comes second finds that of who came first."""
    pa: Any = extra("pyarrow", "fine-tuning", among="finetune")
    ipc: Any = extra("pyarrow.ipc", "fine-tuning", among="finetune")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partly = beside(folder)
    partly.mkdir()
    schema = pa.schema([("input_ids", pa.list_(pa.int32(), length))])
    documents: list[Document] = []
    largest = max(prefix, default=0)
    try:
        with ipc.new_stream(str(partly / _ARROW), schema) as file:
            for text in texts:
                tokens = encode(text.text)
                made = split(tokens, prefix, length)
                for start in range(0, len(made), _FILE_BLOCK):
                    flat = pa.array(made[start : start + _FILE_BLOCK].reshape(-1))
                    file.write_batch(
                        pa.record_batch([pa.FixedSizeListArray.from_arrays(flat, length)], schema)
                    )
                documents.append(_document(text, len(tokens), len(made), length - len(prefix)))
                largest = max(largest, int(tokens.max(initial=0)))
                progress(len(tokens))
        manifest = {
            "length": length,
            "prefix": list(prefix),
            "largest": largest,
            "documents": [asdict(d) for d in documents],
        }
        atomic_write(partly / _MANIFEST, json.dumps(manifest, indent=1) + "\n")
        if not (folder / _MANIFEST).is_file():
            partly.replace(folder)
    finally:
        shutil.rmtree(partly, ignore_errors=True)


def _document(text: Text, tokens: int, chunks: int, body: int) -> Document:
    digest = hashlib.sha256(text.text.encode()).hexdigest()
    return Document(
        name=text.name, tokens=tokens, chunks=chunks, left_over=tokens - chunks * body, digest=digest
    )


def _read(folder: Path, key: str) -> Chunks:
    try:
        made = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return Chunks(
            length=made["length"],
            prefix=tuple(made["prefix"]),
            documents=tuple(Document(**d) for d in made["documents"]),
            largest=made["largest"],
            key=key,
            folder=folder,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: damaged, remove it to have the texts cut again: {error}") from error


def _key(sources: Sequence[str], column: str | None, tokenizer: Any, length: int) -> str:
    files = local_files(sources)
    parts = [_FORMAT, str(length), str(column), _tokenizer(tokenizer)]
    parts += [f"{name} {fingerprint(file)}" for file, name in files.items()]
    named = [hub.parse(source) for source in sources if not Path(source).exists()]
    parts += [f"{one} {hub.revision_of(one)}" for one in named]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _tokenizer(tokenizer: Any) -> str:
    """What changes when the tokens do: the fast tokenizer's own description, else vocabulary and a sample."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    what = fast.to_str() if fast is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    begins = f"{tokenizer('', verbose=False).input_ids} {tokenizer.eos_token_id}"
    return hashlib.sha256(f"{what}\0{type(tokenizer).__name__}\0{begins}".encode()).hexdigest()
