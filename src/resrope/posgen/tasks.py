"""The three PosGen tasks: where a token's sources lie, and the sequences that follow from it.

A task is one pure function from a position to the positions it depends on (Section 5 of
arXiv 2403.00071). Generation, the picture of Figure 2 and the local shortcut all read that function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resrope.posgen.functions import FUNCTIONS, TokenFunction, Tokens, function, unsigned
from resrope.spec import check

# Where the j front tokens start once t tokens have been generated. The index printed for
# semi-recursive, ⌊l − (j+k)/2⌋ − j, keeps a fixed distance to l and so cannot be the "varied
# dependency distance" of Figure 2; a pointer that advances every second step is what it draws.
_POINTER: dict[str, Callable[[int], int]] = {
    "recursive": lambda t: t,
    "cot": lambda t: 0,
    "semi-recursive": lambda t: t // 2,
}
TASKS = tuple(_POINTER)
"""The names a task can have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """x_l = h(j front tokens, k local tokens) for every l >= j+k (Section 5).

    name: "recursive", "cot" or "semi-recursive"; which j tokens are the front ones.
    j, k: how many front and how many local tokens. modulus: m, the size of the vocabulary.
    h: a name in FUNCTIONS, or a function of int64 arrays and the modulus with values in [0, m).
    h_seed: of an h that is drawn at random.
    Raises ValueError for an unknown name and for numbers out of range.
    """

    name: str
    j: int = 1
    k: int = 3
    modulus: int = 17
    h: str | TokenFunction = "sum"
    h_seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.name!r}")
        for field, least in (("j", 1), ("k", 1), ("modulus", 2)):
            value = getattr(self, field)
            check.integer(field, value, least, "of the task", 1000 if field != "modulus" else 2**32)
        check.integer("h_seed", self.h_seed, 0, "of a function that is drawn at random", 2**32)
        if not callable(self.h):
            check.one_of("h", self.h, FUNCTIONS)
            function_of(self)

    @property
    def prefix_length(self) -> int:
        """j+k: how many tokens are given before the first generated one."""
        return self.j + self.k

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds every token."""
        return unsigned(self.modulus - 1)

    def sources(self, position: int) -> tuple[int, ...]:
        """The j front and then the k local positions that x_position depends on.

        With p the pointer after t = l − (j+k) generated tokens, these are p … p+j−1 and l−k … l−1:
        p = t for recursive, 0 for cot, ⌊t/2⌋ for semi-recursive (0, 0, 1, 1, 2, 2, …).
        Raises ValueError for a position inside the prefix.
        """
        if position < self.prefix_length:
            raise ValueError(
                f"position must be >= j+k = {self.prefix_length}, the first generated token, got {position}"
            )
        p = _POINTER[self.name](position - self.prefix_length)
        return (*range(p, p + self.j), *range(position - self.k, position))


def generate(task: Task, prefixes: npt.ArrayLike, length: int) -> Tokens:
    """Continue every prefix to `length` tokens, all rows at once.

    prefixes: [n, j+k] integers in [0, modulus). Returns [n, length] in `task.dtype`.
    Raises ValueError for prefixes of another shape or range and for length < j+k.
    """
    given = _checked(task, prefixes, length)
    h = function_of(task)
    # Time-major: one step reads and writes whole contiguous rows.
    tokens = np.empty((length, len(given)), task.dtype)
    tokens[: task.prefix_length] = given.T
    for position in range(task.prefix_length, length):
        tokens[position] = h([tokens[source] for source in task.sources(position)], task.modulus)
    return np.ascontiguousarray(tokens.T)


def generate_loop(task: Task, prefixes: npt.ArrayLike, length: int) -> list[list[int]]:
    """The same sequences by a plain Python loop over tokens: the reference for `generate`."""
    rows: list[list[int]] = _checked(task, prefixes, length).tolist()
    sources = [task.sources(position) for position in range(task.prefix_length, length)]
    for row in rows:
        for positions in sources:
            row.append(_apply(task, [row[position] for position in positions]))
    return rows


def recursive(
    prefix: Sequence[int],
    length: int,
    modulus: int,
    j: int = 1,
    k: int = 3,
    h: str | TokenFunction = "sum",
) -> list[int]:
    """x_l = h(x_{l−(j+k)}, …, x_{l−1}): `recursive([1, 2, 3, 4], 6, 7) == [1, 2, 3, 4, 3, 5]`."""
    return _continue(Task(name="recursive", j=j, k=k, modulus=modulus, h=h), prefix, length)


def cot(
    prefix: Sequence[int],
    length: int,
    modulus: int,
    j: int = 1,
    k: int = 3,
    h: str | TokenFunction = "sum",
) -> list[int]:
    """x_l = h(x_0, …, x_{j−1}, x_{l−k}, …, x_{l−1}): `cot([1, 2, 3, 4], 6, 7) == [1, 2, 3, 4, 3, 4]`."""
    return _continue(Task(name="cot", j=j, k=k, modulus=modulus, h=h), prefix, length)


def semi_recursive(
    prefix: Sequence[int],
    length: int,
    modulus: int,
    j: int = 1,
    k: int = 3,
    h: str | TokenFunction = "sum",
) -> list[int]:
    """x_l = h(x_p, …, x_{p+j−1}, x_{l−k}, …, x_{l−1}) with p = ⌊(l−(j+k))/2⌋.

    `semi_recursive([1, 2, 3, 4], 7, 7) == [1, 2, 3, 4, 3, 4, 6]`: x_6 = 2 + 4 + 3 + 4 mod 7.
    """
    return _continue(Task(name="semi-recursive", j=j, k=k, modulus=modulus, h=h), prefix, length)


def _continue(task: Task, prefix: Sequence[int], length: int) -> list[int]:
    row: list[int] = generate(task, [prefix], length)[0].tolist()
    return row


def _apply(task: Task, sources: list[int]) -> int:
    """One token, from plain integers."""
    if task.h == "sum":
        return sum(sources) % task.modulus
    return int(function_of(task)([np.array([token]) for token in sources], task.modulus)[0])


def _checked(task: Task, prefixes: npt.ArrayLike, length: int) -> Tokens:
    """The prefixes as an array, after checking what the caller gave."""
    given = np.asarray(prefixes)
    if given.ndim != 2 or given.shape[1] != task.prefix_length:
        raise ValueError(f"prefixes must have shape [n, j+k = {task.prefix_length}], got {given.shape}")
    if given.dtype.kind not in "iu":
        raise ValueError(f"prefixes must be integers, got {given.dtype}")
    if given.size and not 0 <= given.min() <= given.max() < task.modulus:
        raise ValueError(f"prefix tokens must lie in [0, {task.modulus}), got {given.min()} to {given.max()}")
    if length < task.prefix_length:
        raise ValueError(f"length must be >= j+k = {task.prefix_length}, got {length}")
    return given


def function_of(task: Task) -> TokenFunction:
    """The task's h; a caller's own function is given int64 tokens and its result is checked."""
    if not callable(task.h):
        return function(task.h, modulus=task.modulus, j=task.j, k=task.k, seed=task.h_seed)
    h = task.h

    def guarded(sources: Sequence[Tokens], modulus: int) -> Tokens:
        tokens = h([source.astype(np.int64) for source in sources], modulus)
        if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu":
            made = tokens.dtype if isinstance(tokens, np.ndarray) else type(tokens).__name__
            raise ValueError(f"h must return an array of integers, got {made}")
        if tokens.shape != sources[0].shape:
            raise ValueError(
                f"h must return the shape of its sources, {sources[0].shape}, got {tokens.shape}"
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < modulus:
            raise ValueError(f"h must return tokens in [0, {modulus}), got {tokens.min()} to {tokens.max()}")
        return tokens

    return guarded
