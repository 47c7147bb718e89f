"""Perplexity of texts under several methods: one forward per table and text gives every length at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resrope.longtext.candidates import Candidate, placed, tables_at
from resrope.longtext.curves import Tally, tally
from resrope.longtext.forward import CHUNK, Losses, Progress, token_losses
from resrope.longtext.store import Store, key_of
from resrope.longtext.subject import Subject
from resrope.longtext.texts import Text
from resrope.longtext.windows import SHORTEST, Block, blocks, doubling, reached, sliding_windows
from resrope.models.extension import Extension
from resrope.provenance import provenance
from resrope.spec import Frequencies, check


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What is measured. lengths: in tokens, each read from the start of a text. block: tokens averaged in the
    curve by position. window, stride: of the sliding-window protocol, None for one forward over a prefix.
    target: tokens the methods are made for, by default those of the window, else the longest length. chunk:
    tokens read at a time; it changes nothing but speed and memory.
    """

    lengths: tuple[int, ...]
    block: int = 1024
    window: int | None = None
    stride: int | None = None
    target: int | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must rise, each given once, got {', '.join(map(str, self.lengths))}")
        for length in self.lengths:
            check.integer("every length", length, 2, "tokens; the first has no loss")
        check.integer("chunk", self.chunk, 1, "tokens read at a time")
        blocks(self.longest, self.block)
        if self.target is not None:
            check.integer("target", self.target, 1, "tokens the methods are made for")
        if (self.window is None) != (self.stride is None):
            raise ValueError("window and stride must be given together")
        if self.window is not None and self.stride is not None:
            sliding_windows(2, self.window, self.stride)

    @property
    def serves(self) -> int:
        """The tokens that methods are made for: what was asked for, else all that is read at once."""
        return self.target or self.window or self.longest

    @property
    def longest(self) -> int:
        """The longest of the lengths."""
        return self.lengths[-1]

    @property
    def at_once(self) -> int:
        """The most tokens that are in memory together."""
        return min(self.window or self.longest, self.longest)

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the curve by position."""
        return blocks(self.longest, self.block)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A text as token ids."""

    name: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One method's losses, [texts, cells]. serves: tokens that the method was made for. forwards: the seconds
    of each that it rests on, those of earlier runs too, by its key in the store. commits: of the code that
    made them."""

    by_length: Tally
    by_block: Tally
    serves: int
    forwards: Mapping[str, float]
    commits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """The lengths that one forward of one table serves, rising."""

    tables: Mapping[str, Frequencies]
    lengths: tuple[int, ...]


def encode(tokenizer: Any, texts: Sequence[Text]) -> list[Encoded]:
    """Texts as tokens, with what the tokenizer itself puts before a text (BOS)."""
    return [Encoded(name=t.name, tokens=tuple(tokenizer(t.text, verbose=False).input_ids)) for t in texts]


def long_enough(texts: Sequence[Encoded], tokens: int, *, drawn: bool = False) -> list[Encoded]:
    """Those with at least so many tokens. drawn: they are a sample. Raises ValueError where there is none."""
    found = [e for e in texts if len(e.tokens) >= tokens]
    if not found:
        longest = max(texts, key=lambda e: len(e.tokens))
        raise ValueError(
            f"{'none of the texts drawn' if drawn else 'no text'} has {tokens} tokens: the longest, "
            f"{longest.name}, has {len(longest.tokens)}"
        )
    return found


def usual_lengths(texts: Sequence[Encoded], native: int | None) -> list[int]:
    """512, 1024, 2048, … up to four times the trained length, as far as the longest text goes.

    Raises ValueError when no text has 512 tokens.
    """
    most = max(len(e.tokens) for e in texts)
    lengths = [n for n in doubling(SHORTEST, 4 * (native or most)) if n <= most]
    if not lengths:
        raise ValueError(f"the longest text has {most} tokens; without --lengths it takes {SHORTEST}")
    return lengths


def passes(done: Extension, protocol: Protocol) -> list[Pass]:
    """The forwards that a method needs: one, but for a table that depends on the length.

    Dynamic NTK is read once for every length beyond the original, each time with the base of that length.
    """
    if protocol.window is not None:
        return [Pass(tables=tables_at(done, protocol.window), lengths=protocol.lengths)]
    made: list[Pass] = []
    for length in protocol.lengths:
        tables = tables_at(done, length)
        if made and made[-1].tables == tables:
            made[-1] = Pass(tables=tables, lengths=(*made[-1].lengths, length))
        else:
            made.append(Pass(tables=tables, lengths=(length,)))
    return made


def work(done: Extension, texts: Sequence[Encoded], protocol: Protocol) -> int:
    """Tokens that will be read for one method."""
    reaches = (reached(one.lengths, len(text.tokens)) for one in passes(done, protocol) for text in texts)
    return sum(_read(reach, protocol) for reach in reaches if reach)


def _read(reach: int, protocol: Protocol) -> int:
    """Tokens read for the first ``reach`` of a text; where windows overlap, several times."""
    if protocol.window is None or protocol.stride is None:
        return reach - 1
    return sum(w.end - w.start - 1 for w in sliding_windows(reach, protocol.window, protocol.stride))


def measure(
    subject: Subject,
    candidate: Candidate,
    texts: Sequence[Encoded],
    protocol: Protocol,
    store: Store,
    *,
    progress: Progress = lambda tokens: None,
    before: Callable[[], None] = lambda: None,
) -> Measured:
    """The losses of every text under one method, from ``store`` where they are there already.

    Every finished text is kept at once. before: called ahead of every forward that is not there yet. Raises
    ValueError for what the method or the model cannot do.
    """
    done = placed(candidate, subject.rope, protocol.serves)
    reading = _Reading(subject, done, protocol, store, progress, before, {}, set())
    lengths, cells = [], []
    for text in texts:
        by_length: dict[int, Losses] = {}
        for one in passes(done, protocol):
            reach = reached(one.lengths, len(text.tokens))
            if not reach:
                continue
            losses = reading(candidate.label, one.tables, text, reach)
            by_length |= {n: losses[: n - 1] for n in one.lengths if n <= reach}
        lengths.append([by_length.get(n, _NONE) for n in protocol.lengths])
        cells.append([_in_block(by_length, block) for block in protocol.blocks])
    return Measured(
        by_length=tally(lengths),
        by_block=tally(cells),
        serves=done.length,
        forwards=reading.forwards,
        commits=tuple(sorted(reading.commits)),
    )


_NONE: Losses = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Losses of the first tokens of a text: read from the store, else computed and kept there.

    forwards, commits: what they were made by, filled as they are read.
    """

    subject: Subject
    done: Extension
    protocol: Protocol
    store: Store
    progress: Progress
    before: Callable[[], None]
    forwards: dict[str, float]
    commits: set[str]

    def __call__(self, label: str, tables: Mapping[str, Frequencies], text: Encoded, reach: int) -> Losses:
        """The losses [reach - 1]."""
        cut = "prefix" if self.protocol.window is None else f"{self.protocol.window}/{self.protocol.stride}"
        key = key_of(self.subject.identity, tables, text.tokens, cut)
        losses = self.store.get(key, reach - 1)
        if losses is None:
            losses = self._make(key, label, tables, text, reach, cut)
        else:
            self.progress(_read(reach, self.protocol))
        made = self.store.made(key)
        self.forwards[key] = made["seconds"]
        self.commits.add(made["commit"] or "unknown")
        return losses

    def _make(
        self, key: str, label: str, tables: Mapping[str, Frequencies], text: Encoded, reach: int, cut: str
    ) -> Losses:
        """Compute and keep."""
        self.before()
        start = time.perf_counter()
        with self.subject.rotating(self.done, tables) as model:
            losses = self._compute(model, text.tokens[:reach])
        made = {
            "method": label,
            "text": text.name,
            "tokens": reach,
            "protocol": cut,
            "model": self.subject.name,
            "seconds": round(time.perf_counter() - start, 2),
            **provenance(),
        }
        self.store.put(key, losses, made)
        return losses

    def _compute(self, model: Any, tokens: Sequence[int]) -> Losses:
        """In one forward, or window by window."""
        window, stride, chunk = self.protocol.window, self.protocol.stride, self.protocol.chunk
        if window is None or stride is None:
            return token_losses(model, tokens, chunk=chunk, progress=self.progress)
        return np.concatenate(
            [
                token_losses(
                    model,
                    tokens[w.start : w.end],
                    chunk=chunk,
                    first=w.scored - w.start,
                    progress=self.progress,
                )
                for w in sliding_windows(len(tokens), window, stride)
            ]
        )


def _in_block(by_length: Mapping[int, Losses], block: Block) -> Losses:
    """Losses in the block, by the forward of the shortest length that covers it; empty where none does."""
    serving = min((n for n in by_length if n >= block.end), default=None)
    if serving is None:
        return _NONE
    return by_length[serving][max(block.start - 1, 0) : block.end - 1]
