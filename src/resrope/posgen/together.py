"""Which cells are trained together, and those that are so as one model with one more axis (``batched``),
resumable at every look like a cell alone.

OUT/together/<first cell>.safetensors   only while they are unfinished: all that their rest follows from
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resrope.devices import device_of, told
from resrope.files import remove_leftovers
from resrope.posgen.batched import Batch
from resrope.posgen.cell import run_twins, twins, without_denormals
from resrope.posgen.record import Cell, cell_folder, read_notes, read_record, read_tensors, write_tensors
from resrope.posgen.settings import Settings
from resrope.posgen.train import look_steps
from resrope.posgen.work import Work, finish, gave_up, look_at, not_finite, prepared, restore, state_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Cells that one process trains: one model each, ``batched`` as one with one more axis, or else twins
    (``run_twins``), of which one is trained."""

    cells: tuple[Cell, ...]
    batched: bool


def groups(
    out: Path, cells: Sequence[Cell], settings: Settings, *, together: int = 1, device: str = "cpu"
) -> list[Group]:
    """The cells that are not finished: those that are begun as they began, then the others (``fresh``)."""
    unfinished = [cell for cell in cells if read_record(out, cell) is None]
    files = sorted(_folder(out).glob("*.safetensors"))
    begun = [Group(cells=c, batched=True) for file in files if set(c := _cells(file)) & set(unfinished)]
    there = {cell for group in begun for cell in group.cells}
    left = [cell for cell in unfinished if cell not in there]
    # With other numbers of threads they may have come to other weights.
    threads = {cell: _threads(out, cell) for cell in left}
    for number in sorted({n for n in threads.values() if n is not None}):
        alike = twins([cell for cell in left if threads[cell] == number], settings)
        begun += [Group(cells=c, batched=False) for c in alike]
    new = [cell for cell in left if threads[cell] is None]
    return begun + fresh(new, settings, together=together, device=device)


def fresh(
    cells: Sequence[Cell], settings: Settings, *, together: int = 1, device: str = "cpu"
) -> list[Group]:
    """Cells that are not begun, in their order: ``together`` at a time, of one task, or else on a CPU as
    twins; on another device each as a batch of one."""
    if together == 1 and device == "cpu":
        return [Group(cells=c, batched=False) for c in twins(cells, settings)]
    of = {task: [c for c in cells if c.task == task] for task in dict.fromkeys(c.task for c in cells)}
    made = [tuple(same[i : i + together]) for same in of.values() for i in range(0, len(same), together)]
    made.sort(key=lambda group: cells.index(group[0]))
    return [Group(cells=group, batched=len(group) > 1 or device != "cpu") for group in made]


def run_group(
    out: Path,
    group: Group,
    settings: Settings,
    *,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda steps: None,
) -> list[dict[str, Any]]:
    """Train the cells of ``group`` to the end, from their last checkpoint if there is one; their records.

    Batched, each learns what it would alone but for rounding and for what dropout draws. device: of a batch
    that is not begun; one that is goes on where it was. ``progress`` is told of steps of cells. Killed and
    called again with the same group, the records hold the same numbers. A cell whose loss is no number is
    left out of a batch, and once the others are finished its ValueError is raised.
    """
    if not group.batched:
        return run_twins(out, group.cells, settings, progress)
    _folder(out).mkdir(parents=True, exist_ok=True)
    remove_leftovers(_folder(out), name=_file(out, group.cells).name)
    for cell in group.cells:
        remove_leftovers(cell_folder(out, cell))
    with without_denormals():
        run = _begun(out, [prepared(cell, settings) for cell in group.cells], device)
        progress(run.step * len(group.cells))
        for look in look_steps(settings):
            if look > run.step and not all(map(gave_up, run.works)):
                _train_to(look, run, progress)
                _save(out, run)
        records = [read_record(out, work.cell) or finish(out, work) for work in run.works]
        run.file.unlink(missing_ok=True)
    if run.failed:
        raise run.failed[0]
    return records


@dataclass
class Run:
    """Cells while they train together. file: their checkpoint; failed: what went wrong with those that are
    out."""

    works: list[Work]
    device: torch.device
    step: int
    file: Path
    batch: Batch = field(init=False)
    failed: list[ValueError] = field(default_factory=list)

    def __post_init__(self) -> None:
        for work in self.works:
            work.made = {"together": len(self.works), "device": told(self.device)}
            work.trainer.model.to(self.device)
        self._join()

    def _join(self) -> None:
        self.batch = Batch([work.trainer for work in self.works], self.device, self.step)
        for index, work in enumerate(self.works):
            if gave_up(work):
                self.batch.end(index)

    def leave_out(self, failed: Mapping[int, ValueError]) -> None:
        """Go on without these."""
        self.failed += failed.values()
        self.works = [work for index, work in enumerate(self.works) if index not in failed]
        if failed and self.works:
            self._join()


def _begun(out: Path, works: list[Work], device: str) -> Run:
    """From their checkpoint, if there is one."""
    file, step = _file(out, tuple(work.cell for work in works)), 0
    if file.exists():
        tensors, notes = read_tensors(file)
        for index, (work, told) in enumerate(zip(works, notes["notes"], strict=True)):
            own = f"{index}."
            one = {name.removeprefix(own): t for name, t in tensors.items() if name.startswith(own)}
            restore(work, one, told, file)
        step, device = notes["step"], notes["device"]
    return Run(works=works, device=device_of(device), step=step, file=file)


def _train_to(look: int, run: Run, progress: Callable[[int], None]) -> None:
    started, works = time.perf_counter(), run.works
    still = [index for index, work in enumerate(works) if not gave_up(work)]
    losses: list[list[float]] = []
    failed: dict[int, ValueError] = {}
    for each in run.batch.losses(look):
        for index in still:
            if index not in failed and not math.isfinite(each[index]):
                failed[index] = not_finite(works[index], each[index], run.batch.step)
                run.batch.end(index)
        losses.append(each)
        progress(len(works))
    run.step, still = look, [index for index in still if index not in failed]
    for index in still:
        run.batch.put_back(index)
        try:
            look_at(works[index], [each[index] for each in losses])
        except ValueError as error:
            failed[index] = error
        if index in failed or gave_up(works[index]):
            run.batch.end(index)
    for index in still:
        works[index].seconds += (time.perf_counter() - started) / len(still)
    run.leave_out(failed)


def _save(out: Path, run: Run) -> None:
    """One file, so that no cell is ever ahead of another; without the cells that are out."""
    tensors: dict[str, Tensor] = {}
    notes = [state_of(work) for work in run.works]
    for index, (one, _) in enumerate(notes):
        tensors |= {f"{index}.{name}": tensor for name, tensor in one.items()}
    told = {"step": run.step, "device": str(run.device), "notes": [note for _, note in notes]}
    before = run.file
    if run.works:
        cells = tuple(work.cell for work in run.works)
        run.file = _file(out, cells)
        write_tensors(run.file, tensors, {**told, "cells": [asdict(cell) for cell in cells]})
    if not run.works or run.file != before:
        before.unlink(missing_ok=True)


def _folder(out: Path) -> Path:
    return out / "together"


def _file(out: Path, cells: Sequence[Cell]) -> Path:
    return _folder(out) / f"{cells[0].name}.safetensors"


def _cells(file: Path) -> tuple[Cell, ...]:
    return tuple(Cell(**cell) for cell in read_notes(file)["cells"])


def _threads(out: Path, cell: Cell) -> int | None:
    """With how many a cell that is in no batch was begun."""
    file = cell_folder(out, cell) / "checkpoint.safetensors"
    return int(read_notes(file)["threads"]) if file.exists() else None
