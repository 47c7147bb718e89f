"""h: what a token is computed with from its front and its local tokens, by name.

A function reads tokens in their narrow unsigned dtype and minds overflow itself. Those that are drawn at
random are the same for the same modulus, j, k and seed, with every version of numpy: it keeps PCG64's raw
stream fixed, but not what Generator's methods make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[Any]
"""Integer tokens, each in [0, modulus)."""

TokenFunction = Callable[[Sequence[Tokens], int], Tokens]
"""h: the source tokens, as equal-shaped integer arrays, and the modulus -> the new tokens."""

# Entries of a table drawn at random, and the largest Latin square: its making takes modulus³ moves.
_MOST_ENTRIES, _LARGEST_SQUARE = 2**26, 64


def sum_mod(sources: Sequence[Tokens], modulus: int) -> Tokens:
    """h of the paper: the sum of the source tokens mod m.

    sources: arrays of one shape (at least 1-d) with values in [0, modulus). Returns that shape, in
    the smallest unsigned dtype that holds the plain sum.
    """
    largest = len(sources) * (modulus - 1)
    total = sources[0].astype(unsigned(largest))
    for tokens in sources[1:]:
        np.add(total, tokens, out=total)
    # Subtracting a multiple of m that is too large wraps around to a huge unsigned number, so a minimum keeps
    # the residue: far cheaper than a division.
    reduced = np.empty_like(total)
    for power in reversed(range((largest // modulus).bit_length())):
        np.minimum(total, np.subtract(total, modulus << power, out=reduced), out=total)
    return total


@cache
def unsigned(largest: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds ``largest``."""
    return np.min_scalar_type(largest)


def _sum(modulus: int, j: int, k: int, seed: int) -> TokenFunction:
    return sum_mod


def _latin(modulus: int, j: int, k: int, seed: int) -> TokenFunction:
    """One Latin square, applied again and again from the left: ((a ∘ b) ∘ c) ∘ d."""
    square = latin_square(modulus, seed)

    def h(sources: Sequence[Tokens], modulus: int) -> Tokens:
        made = sources[0]
        for tokens in sources[1:]:
            made = square[made, tokens]
        return made

    return h


def _product(modulus: int, j: int, k: int, seed: int) -> TokenFunction:
    """Over the field of p elements: the sum of the front tokens times the first local one, plus the rest."""
    if modulus < 2 or any(modulus % n == 0 for n in range(2, int(modulus**0.5) + 1)):
        raise ValueError(f"h = product must have a prime modulus, got {modulus}")

    def h(sources: Sequence[Tokens], modulus: int) -> Tokens:
        p = np.uint64(modulus)  # below 2^32, so that two residues' product is below 2^64
        product = _total(sources[:j]) % p * sources[j].astype(np.uint64) % p
        made: Tokens = (product + _total(sources[j + 1 :]) % p) % p
        return made

    return h


def _lookup(modulus: int, j: int, k: int, seed: int) -> TokenFunction:
    """A table drawn at random, a permutation in the first local token: a sequence returns to where it was
    only after long, where any table's would soon run in a circle."""
    shape = (modulus,) * (j + k)
    _check_entries("lookup", modulus ** (j + k))
    keys = np.random.PCG64([seed, *shape]).random_raw(modulus ** (j + k)).reshape(shape)
    rows = keys.argsort(axis=-1, kind="stable").astype(unsigned(modulus - 1))
    table = np.moveaxis(rows, -1, j)
    return lambda sources, modulus: table[tuple(sources)]


def _bit(modulus: int, j: int, k: int, seed: int) -> TokenFunction:
    """The sum of the local tokens, and one more or not: a bit drawn at random for every choice of front
    tokens and last local token. No equation says more of a front token than that bit."""
    _check_entries("bit", modulus ** (j + 1))
    raw = np.random.PCG64([seed, modulus, j, k]).random_raw(modulus ** (j + 1))
    bits = (raw >> np.uint64(63)).reshape((modulus,) * (j + 1))

    def h(sources: Sequence[Tokens], modulus: int) -> Tokens:
        chosen = (*sources[:j], sources[-1])
        made: Tokens = (_total(sources[j:]) + bits[chosen]) % np.uint64(modulus)
        return made

    return h


_MAKERS: dict[str, Callable[[int, int, int, int], TokenFunction]] = {
    "sum": _sum,
    "latin": _latin,
    "product": _product,
    "lookup": _lookup,
    "bit": _bit,
}
FUNCTIONS = tuple(_MAKERS)
"""The names that h can have."""
DRAWN = ("latin", "lookup", "bit")
"""Those that are drawn at random from a seed."""


@cache
def function(name: str, *, modulus: int, j: int, k: int, seed: int = 0) -> TokenFunction:
    """The h called ``name`` for tokens of ``modulus``, j front and k local ones.

    Raises ValueError for a modulus that the function does not take.
    """
    return _MAKERS[name](modulus, j, k, seed)


@cache
def latin_square(modulus: int, seed: int) -> Tokens:
    """A Latin square of the numbers below ``modulus``, nearly uniform among all there are.

    Jacobson and Matthews (1996): a walk over squares, of which some on the way hold one cell whose sign is
    wrong. Returns [modulus, modulus]. Raises ValueError for a modulus above 64.
    """
    if modulus > _LARGEST_SQUARE:
        raise ValueError(f"h = latin must have a modulus <= {_LARGEST_SQUARE}, got {modulus}")
    stream = np.random.PCG64([seed, modulus])
    x, y = np.indices((modulus, modulus))
    cube = np.zeros((modulus,) * 3, np.int8)
    cube[x, y, (x + y) % modulus] = 1
    wrong: tuple[int, int, int] | None = None
    moves = 0
    while modulus > 1 and (moves < modulus**3 or wrong is not None):
        wrong = _moved(cube, wrong or _empty_cell(cube, stream), stream)
        moves += 1
    square: Tokens = cube.argmax(2).astype(unsigned(modulus - 1))
    return square


def _empty_cell(cube: Tokens, stream: np.random.PCG64) -> tuple[int, int, int]:
    while True:
        x, y, z = (_below(len(cube), stream) for _ in range(3))
        if not cube[x, y, z]:
            return x, y, z


def _below(n: int, stream: np.random.PCG64) -> int:
    """Smaller ones are likelier by less than n / 2^64."""
    return int(stream.random_raw()) % n


def _moved(cube: Tokens, cell: tuple[int, int, int], stream: np.random.PCG64) -> tuple[int, int, int] | None:
    """Add one at ``cell``, take it away along the three lines through it. Returns a cell that became −1."""
    x, y, z = cell
    lines = (np.flatnonzero(line == 1) for line in (cube[:, y, z], cube[x, :, z], cube[x, y]))
    a, b, c = (int(ones[_below(len(ones), stream)]) for ones in lines)
    for corner in ((x, y, z), (x, b, c), (a, y, c), (a, b, z)):
        cube[corner] += 1
    for corner in ((a, y, z), (x, b, z), (x, y, c), (a, b, c)):
        cube[corner] -= 1
    return (a, b, c) if cube[a, b, c] < 0 else None


def _total(sources: Sequence[Tokens]) -> Tokens:
    made = np.zeros_like(sources[0], np.uint64) if sources else np.zeros((), np.uint64)
    for tokens in sources:
        made = made + tokens.astype(np.uint64)
    return made


def _check_entries(name: str, entries: int) -> None:
    if entries > _MOST_ENTRIES:
        raise ValueError(f"h = {name} must have a table of <= {_MOST_ENTRIES:,} entries, got {entries:,}")
