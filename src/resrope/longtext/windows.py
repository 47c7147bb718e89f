"""How a text is cut: prefixes, blocks of positions, sliding windows. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resrope.spec import check

# The shortest prefix that is measured where nobody says which.
SHORTEST = 512


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens start … end - 1."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens start … end - 1 are read, from position 0 on; the losses of scored … end - 1 count."""

    start: int
    scored: int
    end: int


def blocks(longest: int, size: int) -> list[Block]:
    """Positions 0 … longest - 1 in blocks of ``size``; less than half a block at the end, too few to average,
    belongs to the block before.

    >>> blocks(9, 4)
    [Block(start=0, end=4), Block(start=4, end=9)]
    """
    check.integer("block", size, 2, "positions whose loss is averaged")
    count = max(1, (longest + size // 2) // size)
    return [Block(i * size, (i + 1) * size if i + 1 < count else longest) for i in range(count)]


def sliding_windows(tokens: int, window: int, stride: int) -> list[Window]:
    """Windows of at most ``window`` tokens, ``stride`` apart, in which every token but the first counts once.

    >>> sliding_windows(10, 6, 3)
    [Window(start=0, scored=1, end=6), Window(start=3, scored=6, end=9), Window(start=6, scored=9, end=10)]

    Every token from ``window`` on is seen with at least window - stride tokens before it. Raises ValueError
    where the stride is longer than the window (tokens would never count).
    """
    check.integer("window", window, 2, "tokens read at a time")
    check.integer("stride", stride, 1, f"tokens between windows, at most the window ({window})", window)
    made, start, scored = [], 0, 1
    while scored < tokens:
        # A stride as long as the window would leave a window's first token without anything before it.
        begin = min(start, scored - 1)
        end = min(begin + window, tokens)
        made.append(Window(begin, scored, end))
        start, scored = start + stride, end
    return made


def reached(lengths: Sequence[int], tokens: int) -> int:
    """The longest of ``lengths`` that a text of ``tokens`` tokens has; 0 where it has none."""
    return max((length for length in lengths if length <= tokens), default=0)


def doubling(shortest: int, longest: int) -> list[int]:
    """``shortest``, twice that, … and ``longest`` at the end.

    >>> doubling(512, 3000)
    [512, 1024, 2048, 3000]
    """
    check.integer("shortest", shortest, 1, "tokens")
    made = []
    while shortest < longest:
        made.append(shortest)
        shortest *= 2
    return [*made, longest]
