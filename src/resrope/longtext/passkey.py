"""One passkey question: a number hidden in long filler text and asked for at its end. Pure functions.

The task of Mohtashami and Jaggi (arXiv 2305.16300), with sentences of our own.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

from resrope.longtext.chat import rendered

FILLER = (
    "The river runs past the old mill.",
    "Boats drift by without a sound.",
    "A gull circles over the water.",
    "On the far bank a bell rings.",
    "Then it is quiet again.",
)
_TASK = (
    "A pass key is hidden somewhere in the long text below. Nothing else in it matters. "
    "Keep the pass key in mind: you will be asked for it at the end."
)
_NEEDLE = "The pass key is {key}. Keep it in mind: {key} is the pass key."
_QUESTION = "The text ends here. What is the pass key?"
_ANSWER = "The pass key is"
# New tokens for the answer: five digits, one by one in some tokenizers, and what may stand before them.
ROOM = 10

_LARGEST_KEY = 99_999

# (what is asked, how the answer begins) -> token ids
Encode = Callable[[str, str], Sequence[int]]


def build(
    encode: Encode, *, length: int, depth: float, key: int, haystack: Sequence[str] = FILLER
) -> list[int]:
    """The token ids of one question, which with ``ROOM`` for the answer are at most ``length``.

    As many sentences of the haystack as fit, one after another and again from the first; one more would be
    too long. depth: the share of them that stands before the key, 0 to 1. Raises ValueError for a length
    that holds none.
    """

    check_room(encode, length, haystack)

    def prompt(count: int) -> Sequence[int]:
        return _prompt(encode, count, depth, key, haystack)

    # A sentence is one token or more, so there are never more than `length`.
    count = bisect_right(range(length), length - ROOM, key=lambda n: len(prompt(n))) - 1
    return list(prompt(max(count, 1)))


def check_room(encode: Encode, length: int, haystack: Sequence[str] = FILLER) -> None:
    """Raise ValueError where ``length`` does not hold one sentence of the haystack; a text is not built."""
    least = len(_prompt(encode, 1, 0.0, _LARGEST_KEY, haystack)) + ROOM
    if length < least:
        raise ValueError(f"passkeys need at least {least} tokens with this tokenizer, got {length}")


def _prompt(encode: Encode, count: int, depth: float, key: int, haystack: Sequence[str]) -> Sequence[int]:
    """The key among ``count`` sentences."""
    parts = list(islice(cycle(haystack), count))
    parts.insert(round(depth * count), _NEEDLE.format(key=key))
    return encode(f"{_TASK}\n\n{' '.join(parts)}\n\n{_QUESTION}", _ANSWER)


def is_right(answer: str, key: int) -> bool:
    """Whether the first number of ``answer`` is the key."""
    first = re.search(r"\d+", answer)
    return first is not None and first.group() == str(key)


def sentences(text: str) -> list[str]:
    """A text as a haystack: cut behind . ! ? and at line ends."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\s*\n\s*", text.strip()) if part]


def encoder(tokenizer: Any, *, chat: bool = False) -> Encode:
    """How questions become token ids: as plain text, or in the tokenizer's chat template.

    The answer always begins with the same words, in a chat those of the assistant. Raises ValueError where
    the tokenizer has no template, and at the first question where that cannot be used.
    """
    if not chat:
        return lambda asked, begun: _ids(tokenizer, f"{asked} {begun}")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template: leave --chat out")

    def encode(asked: str, begun: str) -> Sequence[int]:
        opened = rendered(tokenizer, [{"role": "user", "content": asked}])
        return _ids(tokenizer, opened + begun, add_special_tokens=False)

    return encode


def _ids(tokenizer: Any, text: str, **options: Any) -> Sequence[int]:
    # Not verbose: a warning beyond the tokenizer's own length limit would say nothing new here.
    ids: Sequence[int] = tokenizer(text, verbose=False, **options).input_ids
    return ids
