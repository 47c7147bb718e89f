"""From a run's records to one summary: Table 1, its splits, and the effect of Resonance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resrope.posgen.embeddings import EMBEDDINGS
from resrope.posgen.embeddings.wavelengths import CHOICES, LISTED
from resrope.posgen.evaluate import counted, regions
from resrope.posgen.locality import KINDS, local_accuracy, windows
from resrope.posgen.paired import ood, paired
from resrope.posgen.record import CHECKPOINTS, Cell, read_records, read_run
from resrope.posgen.settings import METHODS, Settings
from resrope.posgen.settled import read_settled
from resrope.posgen.tasks import TASKS
from resrope.spec.methods import RESONANCE
from resrope.stats import summarise

Record = dict[str, Any]

# Table 1 of arXiv 2403.00071: OOD accuracy in %, mean over 5 seeds.
PAPER_TABLE_1: dict[str, dict[str, float]] = {
    "recursive": {"rope": 65.29, "resonance-rope": 62.64, "yarn": 95.93, "resonance-yarn": 98.30},
    "cot": {"rope": 69.56, "resonance-rope": 75.25, "yarn": 98.71, "resonance-yarn": 99.58},
    "semi-recursive": {"rope": 17.96, "resonance-rope": 29.78, "yarn": 33.70, "resonance-yarn": 48.46},
}
REGIONS = tuple(
    region + kind for region in ("in_distribution", "ood") for kind in ("", *(f"_{k}" for k in KINDS))
)


def summarise_run(out: Path) -> tuple[dict[str, Any], list[Record]]:
    """Everything the report shows, in JSON types with accuracies from 0 to 1, and the cells' records.

    Raises ValueError when ``out`` is not a run or has no finished cell.
    """
    preset, settings = read_run(out)
    records = read_records(out)
    if not records:
        raise ValueError(f"{out} has no finished cell yet; run `resrope posgen run` on it first")
    return {**_summarise(preset, settings, records), "settled": read_settled(out)}, records


def _summarise(preset: str, settings: Settings, records: list[Record]) -> dict[str, Any]:
    tasks, methods = tasks_of(records), methods_of(records)
    return {
        "preset": preset,
        "settings": settings.to_dict(),
        "tasks": tasks,
        "methods": methods,
        "seeds": sorted({r["cell"]["seed"] for r in records}),
        "embedding": embedding_used(settings) if _scaled(methods) else "none of them is scaled.",
        "rules_alone": {task: rules_alone(settings, task) for task in tasks},
        "accuracy": {task: {m: _accuracies(settings, records, task, m) for m in methods} for task in tasks},
        "resonance_effect": {
            task: _effects(settings, records, task, [(RESONANCE + m, m) for m in methods]) for task in tasks
        },
        "scaling_effect": {
            task: _effects(settings, records, task, [(m, "rope") for m in _scalings(methods)])
            for task in tasks
        },
        "paper": PAPER_TABLE_1 if _is_the_papers_task(settings) else {},
        "seconds": {Cell(**r["cell"]).name: r["made"]["seconds"] for r in records},
        "made": sorted({_machine(r) for r in records}),
    }


def _scalings(methods: Sequence[str]) -> list[str]:
    """Those of RoPE, without Resonance."""
    return [m for m in methods if m in METHODS and m != "rope" and not m.startswith(RESONANCE)]


def _scaled(methods: Sequence[str]) -> bool:
    moved = [f"{choice}-{m}" for choice in (*CHOICES, LISTED) for m in METHODS]
    return any(m in (*METHODS, *moved) and not m.endswith("rope") for m in methods)


def embedding_used(settings: Settings) -> str:
    """One sentence: which reading of YaRN the run used, and when it was applied."""
    ramp = {"index": "feature index", "turns": "L/λ"}[settings.ramp]
    bounds = "rounded bounds" if settings.truncate else "bounds not rounded"
    mixed = {"frequency": "frequencies", "wavelength": "wavelengths"}[settings.blend]
    where = f"in the {ramp}" + (f" ({bounds})" if settings.ramp == "index" else "")
    length = settings.original_length or settings.train_length
    when = "in training and in testing" if settings.scale_in_training else "in testing only"
    return (
        f"s = {settings.factor:g}, L = {length}; YaRN with β_fast = {settings.beta_fast:g}, "
        f"β_slow = {settings.beta_slow:g}, ramp linear {where}, mixing {mixed}; "
        f"scaled {when}."
    )


def _is_the_papers_task(settings: Settings) -> bool:
    ours = (settings.j, settings.k, settings.modulus, settings.h, settings.train_length, settings.test_length)
    return ours == (1, 3, 17, "sum", 64, 256)


def tasks_of(records: Sequence[Record]) -> list[str]:
    """Those that are there, in the paper's order."""
    there = {r["cell"]["task"] for r in records}
    return [task for task in TASKS if task in there]


def methods_of(records: Sequence[Record]) -> list[str]:
    """Those that are there: the paper's in its order, what they are compared with, others as they come."""
    there = dict.fromkeys(r["cell"]["method"] for r in records)
    return [method for method in dict.fromkeys([*METHODS, *EMBEDDINGS, *there]) if method in there]


def cells_of(records: list[Record], task: str, method: str) -> dict[int, Record]:
    """The cells of one entry of the table by seed."""
    return {
        r["cell"]["seed"]: r for r in records if r["cell"]["task"] == task and r["cell"]["method"] == method
    }


def _summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    summary = summarise([v for v in values if v is not None])
    return asdict(summary) if summary else None


def _accuracies(settings: Settings, records: list[Record], task: str, method: str) -> dict[str, Any]:
    """Per checkpoint and region, over seeds; counted anew from what was right at every position."""
    cells = cells_of(records, task, method).values()
    measured = {c: [r[c] for r in cells] for c in CHECKPOINTS}
    free = [r["last"]["free_running"] for r in cells if "free_running" in r["last"]]
    if free:
        measured["free_running"] = free
    found = {kind: [counted(settings, task, part) for part in rows] for kind, rows in measured.items()}
    return {kind: {n: _summary([c[n] for c in rows]) for n in REGIONS} for kind, rows in found.items()}


def _effects(
    settings: Settings, records: list[Record], task: str, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """OOD accuracy of the first of a pair minus that of the second, paired by seed (same data, same initial
    weights), by the first's name without Resonance."""
    effects = {}
    for one, other in pairs:
        here, there = cells_of(records, task, one), cells_of(records, task, other)
        if here.keys() & there.keys():
            found = {c: _summary(paired(here, there, ood(settings, c))) for c in CHECKPOINTS}
            effects[one.removeprefix(RESONANCE)] = found
    return effects


def rules_alone(settings: Settings, task_name: str) -> dict[str, dict[str, float | None]]:
    """What a model scores in every region that knows the rules on so many last tokens and nothing else.

    The longest are on all that training reads: in distribution that is everything, and no rule.
    """
    task = settings.task(task_name)
    masks = regions(task, settings.train_length, settings.test_length)
    beyond = {name: mask for name, mask in masks.items() if name.startswith("ood")}
    told = dict.fromkeys(windows(task), masks)
    told |= {settings.reads: beyond} if settings.reads > max(told) else {}
    made: dict[str, dict[str, float | None]] = {}
    for window, chosen in told.items():
        right = local_accuracy(task, settings.test_length, window)
        found = {name: float(right[mask].mean()) for name, mask in chosen.items() if mask.any()}
        made[str(window)] = {name: found.get(name) for name in masks}
    return made


def _machine(record: Record) -> str:
    unknown = {"commit": "unknown", "date": "day unknown", "processor": "processor unknown"}
    made = {**unknown, **{k: v for k, v in record["made"].items() if v is not None}}
    chosen = f", {made['kernels']}" if "kernels" in made else ""
    chosen += f"; trained on {made['device']}" if made.get("device", "cpu") != "cpu" else ""
    return (
        f"resrope {made['resrope']}, commit {made['commit']}, {made['date']}; "
        f"torch {made['torch']}, numpy {made['numpy']}, Python {made['python']}; "
        f"{made['machine']}, {made['processor']}{chosen}; threads a cell: {made['threads']}."
    )
