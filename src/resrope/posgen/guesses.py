"""What the last tokens say of older ones where no equation can be solved: counted over sequences.

A rule that is written down here and counted is a lower bound of what the tokens say: a better one may exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from resrope.posgen.functions import Tokens
from resrope.posgen.tasks import Task, function_of, generate

Weights = npt.NDArray[np.float64]

ROWS = 400
CANDIDATES = 4096
"""Choices of the front tokens that are tried, at most."""
_DRAWS, _DRAWN_CANDIDATES = 16, 512


@cache
def sample(task: Task, length: int) -> Tokens:
    """Sequences to count over: [400, length]."""
    prefixes = np.random.default_rng(0).integers(0, task.modulus, (ROWS, task.prefix_length))
    return generate(task, prefixes, length)


def guessed(task: Task, length: int, position: int, window: int) -> float:
    """How often x_position is guessed from the last ``window`` tokens and the task's equations.

    By the majority of the front tokens that agree with the equations inside the window; or, where it is
    better by more than counting errs (three standard errors), by those weighted with what the equation that
    made the front token says of it. 1/m, chance, where there are more than 4,096 choices to try.
    """
    if task.modulus**task.j > CANDIDATES:
        return 1 / task.modulus
    seen = _Seen(task, sample(task, length), position, window)
    front = task.sources(position)[: task.j]
    agree = seen.agreeing(front).astype(np.float64)
    votes = seen.votes(agree)
    counted = float((votes.max(1) / votes.sum(1)).mean())
    told = seen.told(front)
    if told is None:
        return counted
    right = seen.votes(agree * told).argmax(1) == seen.tokens[:, position]
    better = float(right.mean())
    return better if better - counted > 3 * np.sqrt(counted * (1 - counted) / ROWS) else counted


@dataclass(frozen=True)
class _Seen:
    """The last ``window`` tokens before ``position`` of sequences, and what the equations among them say."""

    task: Task
    tokens: Tokens
    position: int
    window: int

    @property
    def start(self) -> int:
        return self.position - self.window

    @cached_property
    def candidates(self) -> Tokens:
        """Every choice of the front tokens: [j, choices]."""
        return np.indices((self.task.modulus,) * self.task.j).reshape(self.task.j, -1)

    @cached_property
    def equations(self) -> dict[tuple[int, ...], list[int]]:
        """By their front tokens, those whose other tokens are all in the window."""
        made: dict[tuple[int, ...], list[int]] = {}
        for at in range(max(self.task.prefix_length, self.start + self.task.k), self.position):
            made.setdefault(self.task.sources(at)[: self.task.j], []).append(at)
        return made

    def made(self, local: Sequence[Tokens]) -> Tokens:
        """h of every choice of the front tokens and ``local``, k of one shape: that shape, and choices."""
        shape = (*local[0].shape, self.candidates.shape[1])
        front = [np.broadcast_to(c.astype(self.task.dtype), shape) for c in self.candidates]
        rest = [np.broadcast_to(tokens[..., None], shape) for tokens in local]
        return function_of(self.task)([*front, *rest], self.task.modulus)

    def made_at(self, position: int) -> Tokens:
        """As ``made``, of the tokens that stand before ``position``: [rows, choices]."""
        return self.made([self.tokens[:, i] for i in range(position - self.task.k, position)])

    def agreeing(self, front: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """The choices of the tokens at ``front`` that agree with the window: [rows, choices]."""
        agree = np.ones((len(self.tokens), self.candidates.shape[1]), np.bool_)
        for place, source in enumerate(front):
            if source >= self.start:
                agree &= self.candidates[place] == self.tokens[:, source, None]
        for at in self.equations.get(front, ()):
            agree &= self.made_at(at) == self.tokens[:, at, None]
        return agree

    def votes(self, weights: Weights) -> Weights:
        """For every value of x_position, by weighted choices of its front tokens: [rows, m]."""
        return self._summed(self.made_at(self.position), weights)

    def _summed(self, values: Tokens, weights: Weights) -> Weights:
        """Weights of equal values, row by row: [rows, m]."""
        rows, m = len(self.tokens), self.task.modulus
        keys: Tokens = values.reshape(rows, -1).astype(np.int64) + np.arange(rows)[:, None] * m
        summed: Tokens = np.bincount(keys.ravel(), weights=weights.ravel(), minlength=rows * m)
        return summed.reshape(rows, m)

    def told(self, front: tuple[int, ...]) -> Weights | None:
        """What the equations that made the front tokens say of every choice of them: [rows, choices].

        None where they say nothing: the tokens are in the window or of the prefix, or the window's equations
        know too little of what they were made of. And where there are more than 512 choices.
        """
        weights = None
        if self.candidates.shape[1] > _DRAWN_CANDIDATES:
            return None
        for place, source in enumerate(front):
            local = range(source - self.task.k, source)
            out_of_sight = self.task.prefix_length <= source < self.start
            if out_of_sight and all(self.known(token) for token in local):
                likely = self.generated(source)[:, self.candidates[place]]
                weights = likely if weights is None else weights * likely
        return weights

    def known(self, token: int) -> bool:
        """Whether it is in the window or an equation there says something of it."""
        return token >= self.start or any(token in front for front in self.equations)

    def generated(self, token: int) -> Weights:
        """How likely each value of a token is by its own equation, and by those before it with the same front
        tokens, over draws of what they were made of: [rows, m]. Never 0: draws are few."""
        task = self.task
        front = task.sources(token)[: task.j]
        before = range(max(task.prefix_length, token - task.k), token)
        alike = [at for at in before if task.sources(at)[: task.j] == front]
        stream = np.random.default_rng((self.position, self.window, token))
        drawn = {i: self.drawn(i, stream) for i in range(min([token, *alike]) - task.k, token)}

        def made(at: int) -> Tokens:
            return self.made([drawn[i] for i in range(at - task.k, at)])

        weights = np.repeat(self.agreeing(front)[:, None].astype(np.float64), _DRAWS, 1)
        for at in alike:
            weights *= made(at) == drawn[at][..., None]
        return self._summed(made(token), weights) + 1e-9

    def drawn(self, token: int, stream: np.random.Generator) -> Tokens:
        """Values that a token may have by the window's equations: [rows, draws]."""
        if token >= self.start:
            return np.repeat(self.tokens[:, token, None], _DRAWS, 1)
        likely = np.ones((len(self.tokens), self.task.modulus))
        for front in self.equations:
            if token in front:
                place = self.candidates[front.index(token)]
                agree = self.agreeing(front).astype(np.float64)
                likely *= self._summed(np.broadcast_to(place, agree.shape), agree)
        below = likely.cumsum(1)
        shares = stream.random((len(likely), _DRAWS)) * below[:, -1:]
        values: Tokens = (shares[..., None] >= below[:, None, :-1]).sum(2).astype(self.task.dtype)
        return values
