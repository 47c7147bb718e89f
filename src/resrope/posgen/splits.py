"""Train, validation and test sequences whose prefixes are all different (Section 6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, cycle, islice
from typing import Literal

import numpy as np

from resrope.posgen.functions import Tokens
from resrope.posgen.tasks import Task, generate

SplitKind = Literal["disjoint", "released"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Splits:
    """Token arrays [rows, length], one per split."""

    train: Tokens
    validation: Tokens
    test: Tokens

    def by_name(self) -> dict[str, Tokens]:
        """The three arrays under their names, in this order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def make_splits(
    task: Task,
    *,
    train: int = 10_000,
    validation: int = 1_000,
    test: int = 1_000,
    train_length: int = 64,
    test_length: int = 256,
    seed: int,
    split: SplitKind = "disjoint",
) -> Splits:
    """Draw prefixes at random, distinct within and across the splits, and continue them by the task.

    train: [train, train_length]; validation and test: [·, test_length]; defaults as in the paper.
    split: "released" cuts them as the authors' code does, see ``_released``. The same seed gives the same
    bits on every machine. Raises ValueError for sizes < 1, lengths < j+k, a negative seed, and more
    sequences than there are prefixes.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    check_sizes(task, sizes, split)
    if split == "released":
        return _released(task, sizes, train_length, test_length)
    prefixes = _distinct_prefixes(task, sum(sizes.values()), seed)
    splits = Splits(
        train=generate(task, prefixes[:train], train_length),
        validation=generate(task, prefixes[train : train + validation], test_length),
        test=generate(task, prefixes[train + validation :], test_length),
    )
    check_disjoint(splits.by_name(), task.prefix_length)
    return splits


def _released(task: Task, sizes: Mapping[str, int], train_length: int, test_length: int) -> Splits:
    """Every row several times, and both held-out splits cut from the training rows; no seed.

    The prefixes are those whose tokens rise, one after the other and from the start again. Training takes the
    first rows, validation the first of them, test those that follow validation's.
    """
    rising = list(combinations(range(task.modulus), task.prefix_length))
    held_out = sizes["validation"] + sizes["test"]
    rows = np.array(list(islice(cycle(rising), max(sizes["train"], held_out))))
    return Splits(
        train=generate(task, rows[: sizes["train"]], train_length),
        validation=generate(task, rows[: sizes["validation"]], test_length),
        test=generate(task, rows[sizes["validation"] : held_out], test_length),
    )


def check_disjoint(splits: Mapping[str, Tokens], prefix_length: int) -> None:
    """Raise ValueError if two rows, of one split or of two, begin with the same tokens.

    Knows nothing of how the rows were made: it compares the first `prefix_length` tokens of each.
    """
    owner: dict[tuple[int, ...], str] = {}
    for name, tokens in splits.items():
        for prefix in map(tuple, tokens[:, :prefix_length].tolist()):
            if prefix in owner:
                raise ValueError(f"prefix {prefix} occurs in {owner[prefix]} and again in {name}")
            owner[prefix] = name


def check_sizes(task: Task, sizes: Mapping[str, int], split: SplitKind) -> None:
    """Raise ValueError unless every split has a row and there are prefixes enough for all of them."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1 sequences, got {size}")
    if split == "released":
        if task.modulus < task.prefix_length:
            raise ValueError(
                f"modulus must be >= j+k = {task.prefix_length} for split = released, got {task.modulus}"
            )
        return
    wanted, available = sum(sizes.values()), task.modulus**task.prefix_length
    if wanted > available:
        raise ValueError(
            f"modulus ** (j+k) = {task.modulus} ** {task.prefix_length} = {available} prefixes exist, "
            f"fewer than the {wanted} sequences asked for"
        )


def _distinct_prefixes(task: Task, count: int, seed: int) -> Tokens:
    """The first `count` different prefixes of one random stream, [count, j+k], in drawing order."""
    # numpy keeps PCG64's raw stream fixed across versions, but not what Generator's methods make
    # of it. The remainder favours small tokens by less than modulus / 2**64.
    stream = np.random.PCG64(seed)
    rows = np.empty((0, task.prefix_length), task.dtype)
    while len(rows) < count:
        raw = stream.random_raw(count * task.prefix_length).reshape(count, task.prefix_length)
        rows = np.concatenate([rows, (raw % np.uint64(task.modulus)).astype(task.dtype)])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
    return rows[:count]
