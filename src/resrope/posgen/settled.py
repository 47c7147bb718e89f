"""Ending early: once seeds enough have settled what Resonance does to a method, its pair takes no more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resrope.files import atomic_write
from resrope.posgen.paired import Record, ood, paired
from resrope.posgen.record import CHECKPOINTS, Cell, read_record, read_records
from resrope.posgen.settings import Settings
from resrope.rundir import read_json
from resrope.spec.methods import RESONANCE
from resrope.stats import Summary, summarise

FILE = "settled.json"
Pair = tuple[str, str]
"""A task and a method, which stands with and without Resonance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was settled after ``seeds``: the effect at both checkpoints, of one sign, at the ``level`` of a
    look."""

    task: str
    method: str
    seeds: tuple[int, ...]
    level: float
    effect: Mapping[str, Summary]


def level(seeds: int) -> float:
    """Of the interval at each look, after 2, 3, … ``seeds`` seeds, that keeps 95 % for all of them together
    (Bonferroni)."""
    return 1 - 0.05 / max(1, seeds - 1)


def rounds(out: Path, cells: Sequence[Cell], settings: Settings) -> Iterator[list[Cell]]:
    """The cells of one seed after the other, without pairs that earlier ones settled; these are written to
    OUT/settled.json.

    A cell of a round must be finished before the next round is asked for.
    """
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    found: dict[Pair, Verdict] = {}
    for done, seed in enumerate(seeds):
        for pair in _pairs(cells) - found.keys():
            verdict = _settled(out, pair, seeds[:done], settings, level(len(seeds)))
            if verdict is not None:
                found[pair] = verdict
        if found:  # those of a run that goes on stay until they are found again
            _write(out, seeds, found)
        yield [cell for cell in cells if cell.seed == seed and _pair(cell) not in found]
    _write(out, seeds, found)


def _write(out: Path, seeds: Sequence[int], found: Mapping[Pair, Verdict]) -> None:
    verdicts = [asdict(found[pair]) for pair in sorted(found)]
    atomic_write(out / FILE, json.dumps({"seeds": seeds, "verdicts": verdicts}, indent=1) + "\n")


def read_settled(out: Path) -> list[dict[str, Any]]:
    """The verdicts in OUT/settled.json whose pairs lack seeds that were asked for, or that others have."""
    file = out / FILE
    if not file.is_file():
        return []
    there: dict[Pair, set[int]] = {}
    for record in read_records(out):
        cell = Cell(**record["cell"])
        there.setdefault(_pair(cell), set()).add(cell.seed)
    told = read_json(file)
    verdicts: Any = told.get("verdicts")
    asked = told.get("seeds", [])
    names = {f.name for f in fields(Verdict)}
    right = isinstance(verdicts, list) and all(isinstance(v, dict) and v.keys() == names for v in verdicts)
    if not right or not isinstance(asked, list) or not all(isinstance(seed, int) for seed in asked):
        raise ValueError(f"{file} is not what resrope wrote; `resrope posgen run --stop-when-settled` again")
    every = set(asked).union(*there.values())
    return [v for v in verdicts if there.get((v["task"], v["method"]), every) < every]


def _pair(cell: Cell) -> Pair:
    return cell.task, cell.method.removeprefix(RESONANCE)


def _pairs(cells: Sequence[Cell]) -> set[Pair]:
    """Those of which both are asked for."""
    methods = {(cell.task, cell.method) for cell in cells}
    return {(task, m) for task, m in methods if (task, RESONANCE + m) in methods}


def _settled(out: Path, pair: Pair, seeds: Sequence[int], settings: Settings, at: float) -> Verdict | None:
    """The verdict, when after the last step and at the best checkpoint the interval leaves 0 out on one
    side."""
    task, method = pair
    effect = {c: _effect(out, pair, seeds, settings, c, at) for c in CHECKPOINTS} if len(seeds) > 1 else {}
    signs = {summary.sign for summary in effect.values()}
    if signs not in ({1}, {-1}):
        return None
    return Verdict(task=task, method=method, seeds=tuple(seeds), level=at, effect=effect)


def _effect(
    out: Path, pair: Pair, seeds: Sequence[int], settings: Settings, checkpoint: str, at: float
) -> Summary:
    task, method = pair
    resonant, plain = (_records(out, task, name, seeds) for name in (RESONANCE + method, method))
    summary = summarise(paired(resonant, plain, ood(settings, checkpoint)), at)
    assert summary is not None
    return summary


def _records(out: Path, task: str, method: str, seeds: Sequence[int]) -> dict[int, Record]:
    found = {seed: read_record(out, Cell(task=task, method=method, seed=seed)) for seed in seeds}
    return {seed: record for seed, record in found.items() if record is not None}
