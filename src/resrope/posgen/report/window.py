"""A run's cells tested once more with heads that see the last tokens alone: how much of what they get wrong
beyond the training length comes of looking further back than training ever did.

Cutting attention there is the Λ-shaped mask of LM-Infinite (arXiv 2308.16137), with its first tokens or
without; here nothing is made of it but a measurement.
"""

from __future__ import annotations

import json
import re
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

_REGIONS = {"in_distribution": "in distribution", "ood": "OOD", "ood_near": "OOD, near"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retested:
    """One cell after its last step, with heads that see the last ``tokens`` tokens and the ``first`` ones:
    how many sequences it got right at every position."""

    cell: Cell
    tokens: int
    first: int = 0
    correct: list[int]


def window_file(run: Path, first: int = 0) -> Path:
    """Where the cells of a run are that were tested again with heads that see the ``first`` tokens too."""
    return run / (f"window-first{first}.json" if first else "window.json")


def window_files(run: Path) -> list[Path]:
    """All that are there."""
    numbers = (
        re.fullmatch(r"window(?:-first([1-9]\d*))?\.json", path.name) for path in run.glob("window*.json")
    )
    return [window_file(run, n) for n in sorted(int(found[1] or 0) for found in numbers if found)]


def limited(where: Where, tokens: int, n_heads: int, first: int = 0) -> Where:
    """``where`` with keys that are ``tokens`` or more before the query left out, but for the ``first``."""
    position = torch.arange(len(where), device=where.turns.device)
    back = position[:, None] - position
    out_of_sight = (back >= tokens) & (position >= first)
    hidden = torch.zeros(back.shape, device=back.device).masked_fill(out_of_sight, -torch.inf)
    bias = hidden.expand(n_heads, -1, -1) if where.bias is None else where.bias + hidden
    return replace(where, bias=bias)


def retest(run: Path, cell: Cell, tokens: int, first: int = 0) -> Retested:
    """Test a finished cell with attention cut. Raises ValueError where it is not finished."""
    work, _ = trained(run, cell)
    settings, model, whole = work.settings, work.trainer.model, work.where

    def where(length: int) -> Where:
        return limited(whole(length), tokens, settings.n_heads, first)

    seen = evaluate(model, where, work.test, work.task.prefix_length, settings.before)
    return Retested(cell=cell, tokens=tokens, first=first, correct=seen.correct.tolist())


def retest_run(
    run: Path,
    tokens: int | None = None,
    done: Callable[[Retested], None] = lambda cell: None,
    *,
    first: int = 0,
) -> list[Retested]:
    """Every finished cell of a run that has its weights, into its ``window_file``; what stands there of
    others stays (a kept run that took more seeds).

    tokens: as many as training read at once unless given, so that no distance is new. first: how many at the
    beginning heads see too. Raises ValueError when ``run`` is not a run, has no finished cell, when there are
    weights of none and nothing stands there, when what stays is of other ``tokens``, and for tokens below 1
    or such that nothing is cut.
    """
    _, settings = read_run(run)
    tokens = settings.reads if tokens is None else tokens
    integer("tokens", tokens, 1, "what a head sees")
    integer("first", first, 0, "what it sees at the beginning")
    longest = settings.before + settings.test_length - 1
    if tokens + first >= longest:
        raise ValueError(
            f"tokens and first must leave some of {longest} tokens out, got {tokens} and {first}"
        )
    cells = [Cell(**record["cell"]) for record in read_records(run)]
    if not cells:
        raise ValueError(f"{run} has no finished cell yet; run `resrope posgen run` on it first")
    gone = {cell for cell in cells if not (cell_folder(run, cell) / "last.safetensors").is_file()}
    file, kept = window_file(run, first), _kept(run, gone, tokens, first)
    found = []
    for cell in (cell for cell in cells if cell in kept or cell not in gone):
        found.append(kept[cell] if cell in kept else retest(run, cell, tokens, first))
        done(found[-1])
    if not found:
        raise ValueError(f"{run} has no weights; a kept run has none")
    before = read_json(file) if kept else {}
    earlier = [made for made in (before.get("made"), *before.get("earlier", [])) if made is not None]
    told = {
        "made": provenance(),
        "earlier": earlier,
        "tokens": tokens,
        "cells": [asdict(one) for one in found],
    }
    atomic_write(file, json.dumps(told) + "\n")
    return found


def _kept(run: Path, gone: set[Cell], tokens: int, first: int) -> dict[Cell, Retested]:
    """What was found before of cells that cannot be tested any more."""
    kept = {one.cell: one for one in (read_retested(run, first) if gone else []) if one.cell in gone}
    if other := {one.tokens for one in kept.values()} - {tokens}:
        raise ValueError(
            f"tokens must be {other.pop()}, as for the cells in {window_file(run, first).name} whose weights "
            f"are gone, got {tokens}"
        )
    return kept


def read_retested(run: Path, first: int = 0) -> list[Retested]:
    """What ``retest_run`` found of a run, which may have more cells by now; nothing where it was not asked.

    Raises ValueError where the file is none of ours, or of cells that are others than the run's. Those that
    the run has no longer are left out.
    """
    file = window_file(run, first)
    return _read(run, file) if file.is_file() else []


def read_every_retested(run: Path) -> list[list[Retested]]:
    """What is there, without the first tokens and with some of them.

    Raises ValueError as ``read_retested``.
    """
    return [found for file in window_files(run) if (found := _read(run, file))]


def _read(run: Path, file: Path) -> list[Retested]:
    try:
        cells = read_json(file)["cells"]
        found = [Retested(**{**one, "cell": Cell(**one["cell"])}) for one in cells]
        if {(window_file(run, one.first), one.tokens) for one in found} != {(file, found[0].tokens)}:
            raise KeyError("first")
        most = {one.cell: max(map(int, one.correct)) for one in found}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not what resrope wrote; delete it") from error
    there = {Cell(**record["cell"]): record["last"] for record in read_records(run)}
    found = [one for one in found if one.cell in there]
    for one in found:
        last = there[one.cell]
        if len(one.correct) != len(last["correct_by_position"]) or most[one.cell] > last["rows"]:
            raise ValueError(f"{file} is not of the run's cells; delete it")
    return found


def grid(settings: Settings, records: Sequence[Record], found: Sequence[Retested]) -> Grid:
    """Accuracy as it is and with attention cut, mean over seeds, beside what rules score."""
    tokens, first = found[0].tokens, found[0].first
    cut, seen_by_heads = f"cut at {tokens}", f"the last {tokens} tokens"
    if first:
        cut += ", first seen"
        seen_by_heads += " and the first" + (f" {first}" if first > 1 else "")
    header = ["accuracy, %"]
    for words in _REGIONS.values():
        header += [words, cut]
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
        f"Tested again with heads that see {seen_by_heads}",
        header,
        rows,
        f"{_which(found, records)} after the last step, as they are and cut, mean over "
        "seeds; nothing is trained anew. Near: positions that a rule on the last j+k+1 tokens gives. What "
        "the cut brings back was lost to what lies further back: to distances "
        "that training never met, or to more tokens than it chose among.",
    )


def _which(found: Sequence[Retested], records: Sequence[Record]) -> str:
    """How many of the run's cells, and of which seeds where not all."""
    if len(found) == len(records):
        return f"All {len(found)} cells of the run"
    seeds = ", ".join(map(str, sorted({one.cell.seed for one in found})))
    return f"{len(found)} of the run's {len(records)} cells, of seeds {seeds},"


def _mean(settings: Settings, task: str, parts: Sequence[Record], region: str) -> str:
    shares = [counted(settings, task, part)[region] for part in parts]
    there = [share for share in shares if share is not None]
    return number(fmean(there) if there else None)
