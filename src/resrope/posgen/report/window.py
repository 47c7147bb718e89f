"""A run's cells tested once more with heads that see the last tokens alone: how much of what they get wrong
beyond the training length comes of looking further back than training ever did.

Cutting attention there is the Λ-shaped mask of LM-Infinite (arXiv 2308.16137) without its first tokens; here
nothing is made of it but a measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from resrope.files import atomic_write
from resrope.page import Grid
from resrope.posgen.evaluate import counted, evaluate
from resrope.posgen.positions import Where
from resrope.posgen.record import Cell, cell_folder, read_records, read_run
from resrope.posgen.report.summary import methods_of, rules_alone, tasks_of
from resrope.posgen.report.tables import number
from resrope.posgen.settings import Settings
from resrope.posgen.titles import title
from resrope.posgen.work import trained
from resrope.provenance import provenance
from resrope.rundir import read_json
from resrope.spec.check import integer

Record = Mapping[str, Any]

FILE = "window.json"
_REGIONS = {"in_distribution": "in distribution", "ood": "OOD", "ood_near": "OOD, near"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retested:
    """One cell after its last step, with heads that see the last ``tokens`` tokens: how many sequences it got
    right at every position."""

    cell: Cell
    tokens: int
    correct: list[int]


def limited(where: Where, tokens: int, n_heads: int, first: int = 0) -> Where:
    """``where`` with keys that are ``tokens`` or more before the query left out, but for the ``first``."""
    position = torch.arange(len(where), device=where.turns.device)
    back = position[:, None] - position
    out_of_sight = (back >= tokens) & (position >= first)
    hidden = torch.zeros(back.shape, device=back.device).masked_fill(out_of_sight, -torch.inf)
    bias = hidden.expand(n_heads, -1, -1) if where.bias is None else where.bias + hidden
    return replace(where, bias=bias)


def retest(run: Path, cell: Cell, tokens: int) -> Retested:
    """Test a finished cell with attention cut. Raises ValueError where it is not finished."""
    work, _ = trained(run, cell)
    settings, model = work.settings, work.trainer.model

    def where(length: int) -> Where:
        return limited(work.where(length), tokens, settings.n_heads)

    seen = evaluate(model, where, work.test, work.task.prefix_length, settings.before)
    return Retested(cell=cell, tokens=tokens, correct=seen.correct.tolist())


def retest_run(
    run: Path, tokens: int | None = None, done: Callable[[Retested], None] = lambda cell: None
) -> list[Retested]:
    """Every finished cell of a run, into its window.json; what stands there of cells whose weights are gone
    stays (a kept run that took more seeds).

    tokens: as many as training read at once unless given, so that no distance is new. Raises ValueError when
    ``run`` is not a run, has no finished cell, for cells of which neither is there, and for tokens below 1.
    """
    _, settings = read_run(run)
    tokens = settings.before + settings.train_length - 1 if tokens is None else tokens
    integer("tokens", tokens, 1, "what a head sees")
    cells = [Cell(**record["cell"]) for record in read_records(run)]
    if not cells:
        raise ValueError(f"{run} has no finished cell yet; run `resrope posgen run` on it first")
    gone = {cell for cell in cells if not (cell_folder(run, cell) / "last.safetensors").is_file()}
    kept = {one.cell: one for one in (read_retested(run) if gone else []) if one.tokens == tokens}
    if not gone <= kept.keys():
        missing = min(cell.name for cell in gone - kept.keys())
        raise ValueError(f"{run} has no weights of {missing}, and {FILE} does not hold it at {tokens} tokens")
    found = []
    for cell in cells:
        found.append(kept[cell] if cell in gone else retest(run, cell, tokens))
        done(found[-1])
    earlier = {"earlier": read_json(run / FILE)["made"]} if gone else {}
    told = {"made": provenance(), **earlier, "tokens": tokens, "cells": [asdict(one) for one in found]}
    atomic_write(run / FILE, json.dumps(told) + "\n")
    return found


def read_retested(run: Path) -> list[Retested]:
    """What ``retest_run`` found of a run, which may have more cells by now; nothing where it was not asked.

    Raises ValueError where the file is of cells that the run has not.
    """
    if not (run / FILE).is_file():
        return []
    try:
        cells = read_json(run / FILE)["cells"]
        found = [Retested(**{**one, "cell": Cell(**one["cell"])}) for one in cells]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run / FILE} is not what resrope wrote; `resrope posgen window` again") from error
    sizes = {(one.cell, len(one.correct)) for one in found}
    there = {(Cell(**r["cell"]), len(r["last"]["correct_by_position"])) for r in read_records(run)}
    if not found or not sizes <= there:
        raise ValueError(f"{run / FILE} is not of the run's cells; `resrope posgen window` again")
    return found


def grid(settings: Settings, records: Sequence[Record], found: Sequence[Retested]) -> Grid:
    """Accuracy as it is and with attention cut, mean over seeds, beside what rules score."""
    tokens = found[0].tokens
    header = ["accuracy, %"]
    for words in _REGIONS.values():
        header += [words, f"cut at {tokens}"]
    whole = {Cell(**record["cell"]): record["last"] for record in records}
    rows = []
    there = [{"cell": asdict(one.cell)} for one in found]
    for task in tasks_of(there):
        for method in methods_of(there):
            own = [one for one in found if (one.cell.task, one.cell.method) == (task, method)]
            if not own:
                continue
            before = [whole[one.cell] for one in own]
            after = [{**whole[one.cell], "correct_by_position": one.correct} for one in own]
            cells = [_mean(settings, task, part, r) for r in _REGIONS for part in (before, after)]
            rows.append([f"{title(task)}, {title(method)}", *cells])
        for window, scores in rules_alone(settings, task).items():
            seen = int(window) <= tokens
            told = [[number(scores[r]), number(scores[r]) if seen else "–"] for r in _REGIONS]
            rows.append(
                [f"{title(task)}, rules on {window} tokens", *(cell for pair in told for cell in pair)]
            )
    return Grid(
        f"Tested again with heads that see the last {tokens} tokens",
        header,
        rows,
        f"{len(found)} of the run's {len(records)} cells after the last step, as they are and cut, mean over "
        "seeds; nothing is trained anew. Near: positions that a rule on the last j+k+1 tokens gives. What "
        "the cut brings back was lost to what lies further back: to distances "
        "that training never met, or to more tokens than it chose among.",
    )


def _mean(settings: Settings, task: str, parts: Sequence[Record], region: str) -> str:
    shares = [counted(settings, task, part)[region] for part in parts]
    there = [share for share in shares if share is not None]
    return number(fmean(there) if there else None)
