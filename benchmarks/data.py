"""PosGen sequences, vectorised over rows, against the plain Python loop (goal: at least 100x)."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import numpy as np

from resrope.posgen.tasks import TASKS, Task, generate
from timing import ratio, times

ROWS, LENGTH = 10_000, 64


def plain_loop(task: Task, prefixes: list[list[int]]) -> list[list[int]]:
    """The rule as one would write it down, token by token."""
    rows = [list(prefix) for prefix in prefixes]
    sources = [task.sources(position) for position in range(task.prefix_length, LENGTH)]
    for row in rows:
        for where in sources:
            row.append(sum([row[position] for position in where]) % task.modulus)
    return rows


def tight_loop(task: Task, prefixes: list[list[int]]) -> list[list[int]]:
    """The same with everything that can be saved in Python saved, for four sources."""
    rows = [list(prefix) for prefix in prefixes]
    sources = [task.sources(position) for position in range(task.prefix_length, LENGTH)]
    modulus = task.modulus
    for row in rows:
        append = row.append
        for a, b, c, d in sources:
            append((row[a] + row[b] + row[c] + row[d]) % modulus)
    return rows


def measure(rounds: int = 9) -> dict[str, Any]:
    """Per task each loop's time over ours, on equal output."""
    prefixes = np.random.default_rng(0).integers(0, 17, (ROWS, 4))
    lists = prefixes.tolist()
    results = {}
    for name in TASKS:
        task = Task(name=name)
        peers = {
            "ours": partial(generate, task, prefixes, LENGTH),
            "plain_loop": partial(plain_loop, task, lists),
            "tight_loop": partial(tight_loop, task, lists),
        }
        assert generate(task, prefixes, LENGTH).tolist() == plain_loop(task, lists) == tight_loop(task, lists)
        found = times(peers, rounds)
        results[name] = {
            "seconds": {peer: median(values) for peer, values in found.items()},
            "plain_loop_over_ours": ratio(found["plain_loop"], found["ours"]),
            "tight_loop_over_ours": ratio(found["tight_loop"], found["ours"]),
        }
    return {"rows": ROWS, "length": LENGTH, "tasks": results}
