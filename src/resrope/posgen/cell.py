"""Train and test one cell, or several that training cannot tell apart, resumable at every look."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from resrope.files import remove_leftovers
from resrope.posgen.embeddings import when_trained
from resrope.posgen.record import Cell, cell_folder, read_record, read_tensors, write_tensors
from resrope.posgen.settings import Settings
from resrope.posgen.train import look_steps
from resrope.posgen.work import Work, finish, gave_up, look_at, not_finite, prepared, restore, state_of
from resrope.spec import Frequencies

Progress = Callable[[int], None]


def run_cell(
    out: Path, cell: Cell, settings: Settings, progress: Progress = lambda steps: None
) -> dict[str, Any]:
    """Train ``cell`` to the end, from its last checkpoint if there is one, and return its record.

    A finished cell is returned as it is. ``progress`` is told how many steps were done since it was
    told last. Killed at any moment and called again, the record holds the same numbers, bit for bit,
    given the same number of threads; a cell goes on with the number it began with.
    """
    return run_twins(out, [cell], settings, progress)[0]


def twins(cells: Sequence[Cell], settings: Settings) -> list[tuple[Cell, ...]]:
    """The cells, together where they are one model as long as it trains: of one task, one seed and one
    embedding as training sees it."""
    seen = {method: when_trained(method, settings) for method in {cell.method for cell in cells}}
    found: dict[tuple[str, int, Frequencies | str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.task, cell.seed, seen[cell.method]), []).append(cell)
    return [tuple(alike) for alike in found.values()]


def run_twins(
    out: Path, cells: Sequence[Cell], settings: Settings, progress: Progress = lambda steps: None
) -> list[dict[str, Any]]:
    """``run_cell`` of ``twins``: trained once, each tested with its own table.

    Each has the numbers, the files and the checkpoints that it would have alone, bit for bit; its seconds are
    its share. ``progress`` is told of steps of cells. Raises ValueError for cells that are not twins.
    """
    if len(twins(cells, settings)) > 1:
        raise ValueError(f"training must not tell these cells apart: {', '.join(c.name for c in cells)}")
    done = {cell: record for cell in cells if (record := read_record(out, cell)) is not None}
    with without_denormals():
        works = [prepared(cell, settings) for cell in cells if cell not in done]
        for work in works:
            remove_leftovers(cell_folder(out, work.cell))
            _resume(out, work)
            progress(work.trainer.step)
        for look in look_steps(settings):
            done |= {work.cell: finish(out, work) for work in works if gave_up(work)}
            works = [work for work in works if work.cell not in done]
            # All of these stand at the look before: a kill may have left some ahead, none further behind.
            for alike in _alike([work for work in works if work.trainer.step < look]):
                _train_to(look, alike, progress)
                for work in alike:
                    _save(out, work)
        done |= {work.cell: finish(out, work) for work in works}
    return [done[cell] for cell in cells]


@contextmanager
def without_denormals() -> Iterator[None]:
    """Matrix products of denormal numbers take hundreds of times as long; the caller's arithmetic stays.

    torch's other threads have it from the one that starts them: in a fresh process nothing may be computed
    before.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _alike(works: Sequence[Work]) -> list[list[Work]]:
    """All together, unless they were begun apart on machines that round otherwise."""
    found: list[list[Work]] = []
    for work in works:
        weights = work.trainer.named_parameters()
        for alike in found:
            if all(torch.equal(p, weights[n]) for n, p in alike[0].trainer.named_parameters().items()):
                alike.append(work)
                break
        else:
            found.append([work])
    return found


def _train_to(look: int, works: Sequence[Work], progress: Progress) -> None:
    """Of works that stand at the same weights: one trains, the others take what it has become."""
    started = time.perf_counter()
    losses = []
    first, *others = (work.trainer for work in works)
    for loss in first.losses(look):
        if not math.isfinite(loss):
            raise not_finite(works[0], loss, first.step)
        losses.append(loss)
        progress(len(works))
    for other in others:
        other.restore(first.state(), first.step)
    for work in works:
        look_at(work, losses)
        if others:
            work.made["trained_as_one"] = max(len(works), work.made.get("trained_as_one", 0))
    for work in works:
        work.seconds += (time.perf_counter() - started) / len(works)


def _save(out: Path, work: Work) -> None:
    write_tensors(cell_folder(out, work.cell) / "checkpoint.safetensors", *state_of(work))


def _resume(out: Path, work: Work) -> None:
    path = cell_folder(out, work.cell) / "checkpoint.safetensors"
    if path.exists():
        restore(work, *read_tensors(path), path)
