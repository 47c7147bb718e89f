"""Main memory that is given back: glibc keeps freed blocks below 32 MiB in its heap, where they make holes.

A step on a CPU makes and frees thousands of tensors of that size. Mapped one by one they leave no holes, and
cost some time for the zeroing of fresh pages.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # malloc.h
_SMALL = 1 << 20


def give_back() -> None:
    """From now on blocks of 1 MiB and more are mapped one by one and unmapped when freed (glibc only)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _SMALL)
