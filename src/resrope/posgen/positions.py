"""What a forward takes of positions, and the protocol that every position embedding fills in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resrope.posgen.ops import rotation, turning


@dataclass(frozen=True, slots=True)
class Where:
    """Positions as one forward takes them. turns: the factors of queries, keys and values, complex
    [seq, 3, n_heads, head_dim/2] (``ops.rotation``). input: added to the tokens' embeddings, [seq, d_model].
    bias: added to the scores, [n_heads, seq (queries), seq (keys)]."""

    turns: Tensor
    input: Tensor | None = None
    bias: Tensor | None = None

    def __len__(self) -> int:
        return len(self.turns)

    def first(self, length: int) -> Where:
        """Of the first tokens alone."""
        return Where(
            self.turns[:length],
            None if self.input is None else self.input[:length],
            None if self.bias is None else self.bias[:, :length, :length],
        )

    def to(self, device: torch.device) -> Where:
        """The same on another device."""
        added, bias = (None if part is None else part.to(device) for part in (self.input, self.bias))
        return Where(self.turns.to(device), added, bias)


def rotated(cos: Tensor, sin: Tensor, n_heads: int) -> Where:
    """Of one rotary table for queries and keys alike, cos and sin [seq, head_dim/2]."""
    return Where(rotation(cos, sin, n_heads))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What an embedding is made for; lengths in tokens of a sequence with the one before it.

    A model reads all but the last.
    """

    d_model: int
    n_heads: int
    head_dim: int
    train_length: int
    test_length: int
    rope_theta: float = 10000.0


class PositionEmbedding(nn.Module):
    """A position embedding: one or several of ``rotation``, ``input`` and ``bias``, each of positions [seq].

    The three are functions of the positions and of parameters: what is random is drawn in ``positions``, from
    the generator given there, and nothing else is remembered from step to step. Parameters that a subclass
    registers are trained with the model; they are drawn after torch's generator was seeded for the run.
    ``self.training`` tells training from testing, as everywhere in torch.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Factors of queries and of keys, complex [seq, head_dim/2] each; None: they stay."""
        return None

    def input(self, positions: Tensor) -> Tensor | None:
        """What is added to the tokens' embeddings, [seq, d_model]."""
        return None

    def bias(self, positions: Tensor) -> Tensor | None:
        """What is added to the scores, [n_heads, seq (queries), seq (keys)]; keys after the query do not
        count."""
        return None

    def positions(self, length: int, random: np.random.Generator) -> Tensor:
        """The positions of a sequence, [length]; 0, 1, … unless they are drawn."""
        return torch.arange(length)

    def at(self, positions: Tensor) -> Where:
        """All three together. Raises ValueError for other shapes or dtypes and for numbers that are none."""
        if not isinstance(positions, Tensor) or positions.ndim != 1:
            raise ValueError(
                f"{type(self).__name__}: positions must be a tensor [seq], got {_told(positions)}"
            )
        seq, sizes = len(positions), self.sizes
        stay = torch.ones(seq, sizes.head_dim // 2, dtype=torch.complex64)
        turns, added, bias = self.rotation(positions), self.input(positions), self.bias(positions)
        turns = (stay, stay) if turns is None else turns
        if not isinstance(turns, tuple | list) or len(turns) != 2:
            given = f"two tensors, of queries and of keys, got {_told(turns)}"
            raise ValueError(f"{type(self).__name__}: rotation must be {given}")
        for name, one in zip(("of queries", "of keys"), turns, strict=True):
            self._check(f"rotation {name}", one, [seq, sizes.head_dim // 2], torch.complex64)
        if added is not None:
            self._check("input", added, [seq, sizes.d_model])
        if bias is not None:
            bias = bias.tril() if isinstance(bias, Tensor) and bias.ndim == 3 else bias
            self._check("bias", bias, [sizes.n_heads, seq, seq])
        return Where(turning(*turns, sizes.n_heads), added, bias)

    @property
    def fixed(self) -> bool:
        """Whether it gives the same at every step."""
        drawn = type(self).positions is not PositionEmbedding.positions
        return not drawn and next(self.parameters(), None) is None

    def _check(self, what: str, made: Any, shape: list[int], dtype: torch.dtype = torch.float32) -> None:
        name = type(self).__name__
        if not isinstance(made, Tensor) or list(made.shape) != shape or made.dtype != dtype:
            raise ValueError(f"{name}: {what} must be {dtype} {shape}, got {_told(made)}")
        if not torch.isfinite(torch.view_as_real(made) if made.is_complex() else made).all():
            raise ValueError(f"{name}: {what} holds numbers that are not finite")


def _told(made: object) -> str:
    if isinstance(made, Tensor):
        return f"{made.dtype} {list(made.shape)}"
    return f"{type(made).__name__} of {len(made)}" if isinstance(made, tuple | list) else type(made).__name__


def when_tested(position: PositionEmbedding, seed: int) -> Callable[[int], Where]:
    """Length -> what a forward of a test over so many tokens takes; what is drawn is drawn from ``seed``
    alone, call after call."""
    # Three words, so that no training step, of (seed, step), draws the same.
    random = np.random.default_rng([seed, 0, 1])

    @torch.no_grad()
    def where(length: int) -> Where:
        position.eval()
        return position.at(position.positions(length, random))

    return where


_sources: dict[type[PositionEmbedding], str | None] = {}


def source_of(kind: type[PositionEmbedding]) -> str | None:
    """A hash of the file that holds the class, so that a change of it is seen; None for resrope's own.

    Of the file as it was when first asked for, which is that of the code that runs.
    """
    if kind not in _sources:
        _sources[kind] = None if kind.__module__.partition(".")[0] == "resrope" else _hashed(kind)
    return _sources[kind]


def _hashed(kind: type) -> str | None:
    try:
        return sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()[:16]
    except (TypeError, OSError):  # typed in by hand
        return None
