"""What a kept audit comes to, counted over tasks and seeds: `python results/ladder.py results/audit`.

How often YaRN is above RoPE and Resonance above none, how often every switch raises OOD accuracy and by how
much, how far seeds are apart, and what was learnt in distribution; at the checkpoint that each setting calls
its best.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from resrope.cli.output import console, print_grid
from resrope.cli.shell import script
from resrope.page import Grid
from resrope.rundir import read_json

Rungs = dict[str, dict[str, Any]]


def main(audit: Annotated[Path, typer.Argument(help="A folder that holds audit.json.")]) -> None:
    """Print the counts."""
    if not (audit / "audit.json").is_file():
        raise ValueError(f"{audit} must hold an audit.json")
    rungs: Rungs = read_json(audit / "audit.json")
    for grid in counts(rungs):
        print_grid(grid, console())


def counts(rungs: Rungs) -> list[Grid]:
    """The three tables."""
    pairs = {
        "YaRN over RoPE": ("yarn", "rope"),
        "the same with Resonance": ("resonance-yarn", "resonance-rope"),
    }
    added = {"Resonance over RoPE": ("resonance-rope", "rope"), "over YaRN": ("resonance-yarn", "yarn")}
    rows = []
    for when, both in (("scaled in testing only", False), ("in training too", True)):
        there = {n: r for n, r in rungs.items() if r["settings"]["scale_in_training"] is both}
        rows += [[f"{words}, {when}", *_told(_differences(there, *one))] for words, one in pairs.items()]
    rows += [[words, *_told(_differences(rungs, *one, once=True))] for words, one in added.items()]
    switched = {n: _switched(r) for n, r in rungs.items()}
    apart = [max(v) - min(v) for rung in rungs.values() for _, _, v in _cells(rung, once=True)]
    learnt = [
        [f"{name}, {task}", f"{min(seen):.1f} to {max(seen):.1f}"]
        for name, rung in rungs.items()
        for task in rung["tasks"]
        if (seen := [x for t, _, v in _cells(rung, "in_distribution") if t == task for x in v])
    ]
    header = ["", "above", "below", "points"]
    return [
        Grid(
            "Pairs of one task and seed", header, rows, "What Resonance adds counts a cell in one rung alone."
        ),
        Grid("What a switch changes", header, [[n, *_told(v)] for n, v in switched.items() if v]),
        Grid(
            "Accuracy in distribution, %",
            ["rung, task", "of all embeddings and seeds"],
            learnt,
            f"Seeds of a cell are {median(apart):.1f} points of OOD accuracy apart in the median, "
            f"{max(apart):.1f} at most.",
        ),
    ]


def _cells(
    rung: dict[str, Any], region: str = "ood", *, once: bool = False
) -> Iterable[tuple[str, str, list[float]]]:
    """Task, method and percentages by seed; once: without cells that are those of a rung above."""
    for task in rung["tasks"]:
        for method in rung["methods"]:
            seconds = [s for name, s in rung["seconds"].items() if name.startswith(f"{task}-{method}-seed")]
            if seconds and any(seconds) >= once:
                entry = rung["accuracy"][task][method]["best"][region]
                yield task, method, [100 * value for value in entry["values"]]


def _differences(rungs: Rungs, one: str, other: str, *, once: bool = False) -> list[float]:
    found = []
    for rung in rungs.values():
        cells = {(task, method): values for task, method, values in _cells(rung, once=once)}
        for task in rung["tasks"]:
            here, there = cells.get((task, one), []), cells.get((task, other), [])
            found += [a - b for a, b in zip(here, there, strict=False)]
    return found


def _switched(rung: dict[str, Any]) -> list[float]:
    return [
        100 * v
        for task in rung["switch_effect"].values()
        for effect in task.values()
        for v in effect["values"]
    ]


def _told(values: list[float]) -> list[str]:
    up, down = sum(v > 0 for v in values), sum(v < 0 for v in values)
    return [f"{up} of {len(values)}", str(down), f"{min(values):+.1f} to {max(values):+.1f}"]


if __name__ == "__main__":
    script(main)
