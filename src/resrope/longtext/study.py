"""Several methods on the same texts: measured, set against each other, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from resrope.longtext.candidates import Candidate, placed
from resrope.longtext.curves import Ratio, Tally, ratios
from resrope.longtext.forward import Progress
from resrope.longtext.memory import check_fits
from resrope.longtext.perplexity import Encoded, Measured, Protocol, measure, work
from resrope.longtext.store import Store
from resrope.longtext.subject import Subject
from resrope.provenance import provenance
from resrope.spec.methods import RESONANCE


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What was measured. methods: by label, as asked for. native: tokens that the model as it is serves.
    made: the command and the versions that put it together."""

    model: str
    native: int | None
    protocol: Protocol
    texts: Mapping[str, int]
    methods: Mapping[str, Measured]
    made: Mapping[str, Any]

    @property
    def left_out(self) -> list[str]:
        """Texts that reach none of the lengths."""
        return [name for name, tokens in self.texts.items() if tokens < self.protocol.lengths[0]]

    @property
    def texts_by_length(self) -> dict[str, int]:
        """How many texts reach each length."""
        return self._keyed(next(iter(self.methods.values())).by_length.texts())

    @property
    def seconds(self) -> float:
        """Of all forwards, each counted once however many methods rest on it."""
        return sum({key: s for m in self.methods.values() for key, s in m.forwards.items()}.values())

    def pairs(self) -> dict[str, tuple[Measured, Measured]]:
        """Label without Resonance -> (with, without), where both were measured."""
        found = {k.removeprefix(RESONANCE): m for k, m in self.methods.items() if k.startswith(RESONANCE)}
        return {k: (resonant, self.methods[k]) for k, resonant in found.items() if k in self.methods}

    def to_dict(self) -> dict[str, Any]:
        """JSON types. A ratio is the perplexity with Resonance over that without it."""
        return {
            "model": self.model,
            "native_length": self.native,
            "target_length": self.protocol.serves,
            "lengths": list(self.protocol.lengths),
            "block": self.protocol.block,
            "window": self.protocol.window,
            "stride": self.protocol.stride,
            "texts": dict(self.texts),
            "left_out": self.left_out,
            "texts_by_length": self.texts_by_length,
            "seconds": round(self.seconds, 1),
            "methods": {label: self._method(m) for label, m in self.methods.items()},
            "resonance": {label: self._pair(*pair) for label, pair in self.pairs().items()},
            "made": dict(self.made),
        }

    def _method(self, measured: Measured) -> dict[str, Any]:
        low_high = measured.by_length.intervals()
        return {
            "by_length": self._keyed(measured.by_length.perplexity()),
            "by_length_interval": self._keyed([None if i is None else list(i) for i in low_high]),
            "by_block": self._blocks(measured.by_block),
            "by_text": {
                name: self._keyed(_row(measured.by_length, i).perplexity())
                for i, name in enumerate(self.texts)
            },
            "made_for": measured.serves,
            "seconds": round(sum(measured.forwards.values()), 1),
            "commits": list(measured.commits),
        }

    def _blocks(self, tally: Tally) -> list[dict[str, Any]]:
        columns = zip(
            self.protocol.blocks,
            tally.perplexity(),
            tally.intervals(),
            tally.texts(),
            tally.tokens.sum(0),
            strict=True,
        )
        return [
            {
                "start": b.start,
                "end": b.end,
                "ppl": ppl,
                "interval": None if i is None else list(i),
                "texts": texts,
                "tokens": int(tokens),
            }
            for b, ppl, i, texts, tokens in columns
        ]

    def _pair(self, resonant: Measured, plain: Measured) -> dict[str, Any]:
        blocks = zip(self.protocol.blocks, ratios(resonant.by_block, plain.by_block), strict=True)
        return {
            "by_length": self._keyed([_plain(r) for r in ratios(resonant.by_length, plain.by_length)]),
            "by_block": [{"start": b.start, "end": b.end, **(_plain(r) or {})} for b, r in blocks],
        }

    def _keyed(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(map(str, self.protocol.lengths), values, strict=True))


def study(
    subject: Subject,
    asked: Sequence[Candidate],
    texts: Sequence[Encoded],
    protocol: Protocol,
    store: Store,
    *,
    progress: Progress = lambda tokens: None,
    announce: Any = lambda label: None,
    command: str | None = None,
) -> Study:
    """Measure every method on every text.

    progress: told of tokens read, ``total_work`` of them. announce: told of each method before it starts.
    command: that asked for it, for the record.
    Raises ValueError, before anything is read, for a method that the model cannot take and a length that does
    not fit into memory; what is in the store needs none.
    """
    total_work(subject, asked, texts, protocol)

    @cache
    def fits() -> None:
        check_fits(subject.model, protocol.at_once, chunk=protocol.chunk)

    measured = {}
    for candidate in asked:
        announce(candidate.label)
        measured[candidate.label] = measure(
            subject, candidate, texts, protocol, store, progress=progress, before=fits
        )
    return Study(
        model=subject.name,
        native=subject.native,
        protocol=protocol,
        texts={text.name: len(text.tokens) for text in texts},
        methods=measured,
        made={"command": command, **provenance()},
    )


def total_work(
    subject: Subject, asked: Sequence[Candidate], texts: Sequence[Encoded], protocol: Protocol
) -> int:
    """Tokens that a study reads. Raises ValueError for a method that the model cannot take."""
    target = protocol.serves
    return sum(work(placed(one, subject.rope, target), texts, protocol) for one in asked)


def _row(tally: Tally, index: int) -> Tally:
    return Tally(nats=tally.nats[index : index + 1], tokens=tally.tokens[index : index + 1])


def _plain(ratio: Ratio | None) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "certain": ratio.certain}
