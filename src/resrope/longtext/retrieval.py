"""Passkey retrieval on a grid of lengths and depths, as YaRN is evaluated (arXiv 2309.00071)."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resrope.longtext.candidates import Candidate, placed, tables_at
from resrope.longtext.forward import CHUNK, Progress, continuation
from resrope.longtext.memory import check_fits
from resrope.longtext.passkey import FILLER, ROOM, Encode, build, is_right
from resrope.longtext.store import Records, key_of
from resrope.longtext.subject import Subject
from resrope.models.extension import Extension
from resrope.provenance import provenance
from resrope.spec import Frequencies, check


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is asked: ``trials`` keys at every depth of every length.

    lengths: in tokens, the answer among them. depths: the share of the filler before the key, 0 to 1.
    target: tokens that the methods are made for, the longest length where left out. Raises ValueError for
    an empty grid and values that do not fit.
    """

    lengths: Sequence[int]
    depths: Sequence[float]
    trials: int
    seed: int = 0
    target: int | None = None

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must rise, each given once, got {_listed(self.lengths)}")
        if not self.depths or list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"depths must rise, each given once, got {_listed(self.depths)}")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"depths must be from 0 to 1, got {_listed(self.depths)}")
        check.integer("trials", self.trials, 1, "keys at every length and depth")

    @property
    def serves(self) -> int:
        """The tokens that the methods are made for."""
        return self.lengths[-1] if self.target is None else self.target

    @property
    def tokens(self) -> int:
        """How many tokens one method reads."""
        return sum(self.lengths) * len(self.depths) * self.trials

    def keys(self, length: int, depth: float) -> list[int]:
        """The five-digit keys of one cell; every cell draws its own, whatever the others are."""
        draw = random.Random(f"{self.seed} {length} {float(depth)}")
        return [draw.randint(10_000, 99_999) for _ in range(self.trials)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """How many keys were found at one depth of one length."""

    length: int
    depth: float
    correct: int
    trials: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """What was found, by method. native_length: tokens the model as it is serves, None where its config is
    silent. commits: of the code that got the answers."""

    model: str
    plan: Plan
    native_length: int | None
    methods: Mapping[str, Sequence[Cell]]
    commits: tuple[str, ...] = ()

    def accuracy(self, method: str, length: int | None = None) -> float:
        """The share of keys found, 0 to 1, at one length or at all of them."""
        cells = [cell for cell in self.methods[method] if length in (None, cell.length)]
        return sum(cell.correct for cell in cells) / sum(cell.trials for cell in cells)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        plan = self.plan
        methods = {
            label: {
                "grid": [asdict(cell) for cell in cells],
                "by_length": {str(length): self.accuracy(label, length) for length in plan.lengths},
                "accuracy": self.accuracy(label),
            }
            for label, cells in self.methods.items()
        }
        return {
            "model": self.model,
            "native_length": self.native_length,
            "target": plan.serves,
            "lengths": list(plan.lengths),
            "depths": list(plan.depths),
            "trials": plan.trials,
            "seed": plan.seed,
            "commits": list(self.commits),
            "methods": methods,
        }


def measure(
    subject: Subject,
    methods: Sequence[Candidate],
    plan: Plan,
    encode: Encode,
    answers: Records,
    *,
    haystack: Sequence[str] = FILLER,
    chunk: int = CHUNK,
    progress: Progress = lambda tokens: None,
) -> Retrieval:
    """Ask the model with every method for every key of the plan; answers that were kept are not made again.

    Every question is a forward of its own: what two questions share ends at the first key. progress: all
    methods together read ``plan.tokens`` each. chunk: tokens read at a time. Raises ValueError, before the
    first forward, for a method that the model cannot have and for a length that does not fit into memory.
    """
    extended = {one.label: placed(one, subject.rope, plan.serves) for one in methods}

    # Kept answers need no model, but their questions are built to find them, and that takes memory as well.
    check_fits(subject.model, plan.lengths[-1], chunk=chunk, kept_rows=1)
    found: dict[str, list[Cell]] = {label: [] for label in extended}
    asking = _Asking(subject, encode, haystack, answers, chunk, progress, set(), {})
    for length in plan.lengths:
        for label, done in extended.items():
            found[label] += asking.cells(label, done, plan, length)
    return Retrieval(
        model=subject.name,
        plan=plan,
        native_length=subject.native,
        methods=found,
        commits=tuple(sorted(asking.commits)),
    )


@dataclass(frozen=True, slots=True)
class _Asking:
    """Questions put to a model, or their answers found among those that were kept."""

    subject: Subject
    encode: Encode
    haystack: Sequence[str]
    answers: Records
    chunk: int
    progress: Progress
    commits: set[str]
    questions: dict[tuple[int, float, int], list[int]]

    def cells(self, label: str, done: Extension, plan: Plan, length: int) -> list[Cell]:
        """One method at one length, with the table of sequences of that length."""
        tables = tables_at(done, length)
        made = []
        with self.subject.rotating(done, tables):
            for depth in plan.depths:
                keys = plan.keys(length, depth)
                told = [self.answer(label, tables, length, depth, key) for key in keys]
                correct = sum(is_right(one, key) for one, key in zip(told, keys, strict=True))
                made.append(Cell(length=length, depth=depth, correct=correct, trials=plan.trials))
        return made

    def answer(
        self, label: str, tables: Mapping[str, Frequencies], length: int, depth: float, key: int
    ) -> str:
        tokens = self.question(length, depth, key)
        name = key_of(self.subject.identity, tables, tokens, f"{ROOM} greedy tokens")
        made = self.answers.get(name, "answer", "commit")
        if made is None:
            question = {"method": label, "length": length, "depth": depth, "key": key}
            made = {"answer": self.ask(tokens), **question, "model": self.subject.name, **provenance()}
            self.answers.put(name, made)
            self.progress(length - len(tokens))
        else:
            self.progress(length)
        self.commits.add(str(made["commit"] or "unknown"))
        return str(made["answer"])

    def question(self, length: int, depth: float, key: int) -> list[int]:
        """Built once for all methods: finding how many sentences fit takes a dozen encodings of the text."""
        if (length, depth, key) not in self.questions:
            made = build(self.encode, length=length, depth=depth, key=key, haystack=self.haystack)
            self.questions[length, depth, key] = made
        return self.questions[length, depth, key]

    def ask(self, tokens: Sequence[int]) -> str:
        model, tokenizer = self.subject.model, self.subject.tokenizer
        stop = _stops(model, tokenizer)
        made = continuation(model, tokens, ROOM, chunk=self.chunk, stop=stop, progress=self.progress)
        return str(tokenizer.decode(made, skip_special_tokens=True))


def _stops(model: Any, tokenizer: Any) -> Collection[int]:
    """The tokens that end an answer, as the tokenizer and the model's generation config know them."""
    known = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)]
    return {
        one for given in known for one in (given if isinstance(given, list) else [given]) if one is not None
    }


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(str, values)) or "none"
