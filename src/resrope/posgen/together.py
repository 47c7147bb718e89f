"""Cells that are trained together as one model (``batched``), resumable at every look like a cell alone.

OUT/together/<first cell>.safetensors   only while they are unfinished: all that their rest follows from
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resrope.posgen.batched import Batch
from resrope.posgen.cell import (
    Work,
    check_finite,
    finish,
    gave_up,
    look_at,
    prepared,
    restore,
    run_cell,
    state_of,
    without_denormals,
)
from resrope.posgen.record import Cell, cell_folder, read_notes, read_record, read_tensors, write_tensors
from resrope.posgen.settings import Settings
from resrope.posgen.train import look_steps

Group = tuple[Cell, ...]


def groups(out: Path, cells: Sequence[Cell], together: int = 1) -> list[Group]:
    """The cells that are not finished: those that are begun as they began, the others ``together`` at a
    time, of one task."""
    files = sorted(_folder(out).glob("*"))
    begun = [group for file in files if set(group := _cells(file)) & set(cells)]
    left = [c for c in cells if read_record(out, c) is None and not any(c in group for group in begun)]
    begun += [(cell,) for cell in left if (cell_folder(out, cell) / "checkpoint.safetensors").exists()]
    new: list[Group] = []
    for task in dict.fromkeys(cell.task for cell in left):
        same = [cell for cell in left if cell.task == task and (cell,) not in begun]
        new += [tuple(same[i : i + together]) for i in range(0, len(same), together)]
    return begun + new


def run_group(
    out: Path,
    group: Group,
    settings: Settings,
    *,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda steps: None,
) -> list[dict[str, Any]]:
    """``run_together``; a cell that is alone on a CPU by ``run_cell``."""
    alone = len(group) == 1 and device == "cpu" and not _file(out, group).exists()
    if alone:
        return [run_cell(out, group[0], settings, progress)]
    return run_together(out, group, settings, device=device, progress=progress)


def run_together(
    out: Path,
    group: Group,
    settings: Settings,
    *,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda steps: None,
) -> list[dict[str, Any]]:
    """Train the cells of ``group`` to the end, from their last checkpoint if there is one; their records.

    As ``run_cell`` of each but for rounding and for what dropout draws, and with a device. ``progress`` is
    told of steps of cells. Killed and called again with the same group, the records hold the same numbers.
    """
    with without_denormals():
        works = [prepared(cell, settings) for cell in group]
        file, place = _file(out, group), torch.device(device)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            _restore_all(works, file)
        for work in works:
            work.made = {"together": len(works), "device": place.type}
            work.trainer.model.to(place)
        step = max(work.trainer.step for work in works)
        progress(step * len(works))
        batch = Batch([work.trainer for work in works], place, step)
        for look in look_steps(settings):
            if look > step and not all(map(gave_up, works)):
                _train_to(look, works, batch, progress)
                _save_all(works, batch.step, file)
        records = [read_record(out, work.cell) or finish(out, work) for work in works]
        file.unlink(missing_ok=True)
    return records


def _train_to(look: int, works: Sequence[Work], batch: Batch, progress: Callable[[int], None]) -> None:
    started = time.perf_counter()
    losses = []
    for each in batch.losses(look):
        for work, loss in zip(works, each, strict=True):
            check_finite(work, loss, batch.step)
        losses.append(each)
        progress(len(works))
    still = [index for index, work in enumerate(works) if not gave_up(work)]
    for index in still:
        batch.put_back(index)
        look_at(works[index], [each[index] for each in losses])
    for index in still:
        works[index].seconds += (time.perf_counter() - started) / len(still)


def _folder(out: Path) -> Path:
    return out / "together"


def _file(out: Path, group: Group) -> Path:
    return _folder(out) / f"{group[0].name}.safetensors"


def _cells(file: Path) -> Group:
    return tuple(Cell(**cell) for cell in read_notes(file)["cells"])


def _save_all(works: Sequence[Work], step: int, file: Path) -> None:
    """One file, so that no cell is ever ahead of another."""
    tensors: dict[str, Tensor] = {}
    notes: dict[str, Any] = {"step": step, "cells": [asdict(work.cell) for work in works], "notes": []}
    for index, work in enumerate(works):
        one, told = state_of(work)
        tensors |= {f"{index}.{name}": tensor for name, tensor in one.items()}
        notes["notes"].append(told)
    write_tensors(file, tensors, notes)


def _restore_all(works: Sequence[Work], file: Path) -> None:
    tensors, notes = read_tensors(file)
    for index, (work, told) in enumerate(zip(works, notes["notes"], strict=True)):
        own = f"{index}."
        one = {name.removeprefix(own): t for name, t in tensors.items() if name.startswith(own)}
        restore(work, one, told, file)
