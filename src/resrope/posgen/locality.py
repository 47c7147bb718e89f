"""Which tokens a rule on the last few tokens gives, for every task and every h: derived, and measured.

Derived: every token's equation x_i = h(sources) can be solved for one unknown, for its left side always, for
a source where h is a permutation in it. `reach` is the smallest number of last tokens from which x_l follows
that way, through as many equations of the task as it takes. Measured: where h is none, `local_accuracy`
counts how often the best rule that is known here is right: a lower bound.

A model that knows such rules and nothing else finds no token by its position.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from resrope.posgen.functions import Tokens
from resrope.posgen.guesses import CANDIDATES, ROWS, guessed, sample
from resrope.posgen.tasks import Task, function_of

Positions = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

KINDS = ("near", "chained", "far")
# Where rules are right as often as that, they give the token away.
_GIVEN_AWAY = 0.9
# What is counted over, where counting over everything takes too long.
_LINES, _VALUES = 4096, 256


def windows(task: Task) -> tuple[int, int]:
    """j+k+1 tokens, which one equation and the one before it read, and 4·(j+k), a neighbourhood."""
    return task.prefix_length + 1, 4 * task.prefix_length


@cache
def solvable(task: Task, least: float = 1.0) -> frozenset[int]:
    """The arguments of h, 0 … j+k−1, that the others and the result give: h is a permutation in them.

    least: for what share of the choices of the others. Counted over all values of all arguments; over 4,096
    choices and 256 values where there are more.
    """
    shares = (_share_told_apart(task, (argument,)) for argument in range(task.prefix_length))
    return frozenset(argument for argument, share in enumerate(shares) if share >= least)


@cache
def front_solvable(task: Task, least: float = 1.0) -> bool:
    """Whether the local tokens and the result give what matters of the j front tokens together: their sum,
    say.

    least, and how it is counted: as in ``solvable``.
    """
    return _share_told_apart(task, tuple(range(task.j)), merged=True) >= least


@cache
def _share_told_apart(task: Task, arguments: tuple[int, ...], *, merged: bool = False) -> float:
    """For what share of the choices of the other arguments h has another result for every choice of these.
    merged: choices between which no others make a difference are one."""
    others = [i for i in range(task.prefix_length) if i not in arguments]
    values = _choices(task.modulus, len(arguments), _VALUES)
    lines = _choices(task.modulus, len(others), _LINES)
    sources: list[Tokens] = [np.empty(0)] * task.prefix_length
    shape = (lines.shape[1], values.shape[1])
    for argument, one in zip(arguments, values, strict=True):
        sources[argument] = np.broadcast_to(one.astype(task.dtype), shape)
    for argument, one in zip(others, lines, strict=True):
        sources[argument] = np.broadcast_to(one.astype(task.dtype)[:, None], shape)
    made = function_of(task)(sources, task.modulus)
    made = np.sort(np.unique(made, axis=1) if merged else made, 1)
    return float((made[:, 1:] != made[:, :-1]).all(1).mean())


def _choices(modulus: int, arguments: int, most: int) -> Tokens:
    """All values that arguments can have together, or ``most`` drawn at random: [arguments, choices]."""
    if modulus**arguments <= max(most, CANDIDATES):
        return np.indices((modulus,) * arguments).reshape(arguments, -1)
    return np.unique(np.random.default_rng(arguments).integers(0, modulus, (arguments, most)), axis=1)


@dataclass(frozen=True, slots=True)
class _Relation:
    """Tokens of which all but one give the one: the first always, the others at the ``solvable`` places.

    A token is its position; the front tokens at a pointer together are one more, a negative number.
    """

    members: tuple[int, ...]
    solvable: frozenset[int]

    def given(self, known: set[int]) -> int | None:
        """The one member that is not known, if the others give it."""
        unknown = [place for place, member in enumerate(self.members) if member not in known]
        if len(unknown) != 1 or (unknown[0] and unknown[0] not in self.solvable):
            return None
        return self.members[unknown[0]]


def _read(task: Task, position: int) -> tuple[int, ...]:
    """What x_position is made of: its front tokens as one, its local tokens."""
    sources = task.sources(position)
    return (-1 - sources[0], *sources[task.j :])


def _relations(task: Task, length: int, least: float) -> list[_Relation]:
    """All equations up to ``length``, and what the front tokens at every pointer have to do with one
    another."""
    arguments = solvable(task, least)
    local = {2 + i - task.j for i in arguments if i >= task.j}
    places = frozenset(local | ({1} if front_solvable(task, least) else set()))
    inside = frozenset(1 + i for i in arguments if i < task.j)
    made, pointers = [], set()
    for i in range(task.prefix_length, length):
        front = task.sources(i)[: task.j]
        made.append(_Relation((i, *_read(task, i)), places))
        if front not in pointers:
            pointers.add(front)
            made.append(_Relation((-1 - front[0], *front), inside))
    return made


@cache
def reach(task: Task, length: int, least: float = 1.0) -> Positions:
    """How many of the last tokens give x_l through the task's equations; 0 on the prefix.

    least: an equation is solved for a source where that is possible in that share of cases. Never more than
    the distance to the farthest source, where the token is simply read. [length]. For every h that is a
    permutation in all arguments it is the same: 4 for cot and recursive (j = 1, k = 3); for semi-recursive 4
    at odd l, and at even l what grows with l and with how often 2 divides it.
    """
    relations = _relations(task, length, least)
    found = np.zeros(length, np.int64)
    for position in range(task.prefix_length, length):
        found[position] = _reach(task, position, [r for r in relations if max(r.members) < position])
    found.flags.writeable = False
    return found


def _reach(task: Task, position: int, relations: list[_Relation]) -> int:
    """Read one more token at a time, from the last one back, and follow up what it gives."""
    front = task.sources(position)[: task.j]
    relations = [*relations, _Relation((-1 - front[0], *front), frozenset())]
    wanted = set(_read(task, position))
    uses: dict[int, list[_Relation]] = {}
    for relation in relations:
        for member in relation.members:
            uses.setdefault(member, []).append(relation)
    known: set[int] = set()
    for window in range(1, position + 1):
        fresh = deque([position - window])
        while fresh:
            token = fresh.popleft()
            if token not in known:
                known.add(token)
                given = (relation.given(known) for relation in uses.get(token, ()))
                fresh.extend(one for one in given if one is not None)
        if wanted <= known:
            return window
    raise AssertionError("all tokens before it give every token")


@cache
def local_accuracy(task: Task, length: int, window: int) -> Shares:
    """How often the best rule on the last ``window`` tokens that is known here gives x_l; 0 on the prefix.

    1 where ``reach`` says that it follows, 0.9 at least where it mostly does; elsewhere what is ``guessed``,
    counted on 400 sequences. [length].
    """
    found = np.zeros(length)
    always, mostly = reach(task, length), reach(task, length, _GIVEN_AWAY)
    for position in range(task.prefix_length, length):
        if always[position] <= window:
            found[position] = 1.0
            continue
        counted = guessed(task, length, position, window)
        found[position] = max(counted, _GIVEN_AWAY) if mostly[position] <= window else counted
    found.flags.writeable = False
    return found


def copied(task: Task, length: int) -> Shares:
    """How often x_l is what followed the last k tokens when they stood there last; 0 where they never did.

    The rule needs nothing of the task, and no position. Counted on 400 sequences. [length].
    """
    right = np.zeros(length)
    for row in sample(task, length).tolist():
        followed: dict[tuple[int, ...], int] = {}
        for position in range(task.k, length):
            last = tuple(row[position - task.k : position])
            right[position] += position >= task.prefix_length and followed.get(last) == row[position]
            followed[last] = row[position]
    return right / ROWS


def given_away(task: Task, length: int, window: int) -> npt.NDArray[np.bool_]:
    """Generated positions at which a rule on the last ``window`` tokens is right nine times in ten. Mask
    [length]."""
    generated = np.arange(length) >= task.prefix_length
    return generated & (local_accuracy(task, length, window) >= _GIVEN_AWAY)


def kinds(task: Task, length: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Every generated position in one of three kinds, by which rules are right nine times in ten.

    near: rules on the last j+k+1 tokens; chained: on the last 4·(j+k), through several equations; far:
    neither, a model must find a token by its position or follow up more equations (``local_accuracy`` of a
    larger window). Masks [length].
    """
    near, given = (given_away(task, length, window) for window in windows(task))
    far = (np.arange(length) >= task.prefix_length) & ~given
    return {"near": near, "chained": given & ~near, "far": far}
