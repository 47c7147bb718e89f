"""A matrix of cells in parallel processes, with the processor's threads divided among them."""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from resrope.posgen.record import Cell, read_record
from resrope.posgen.settings import Settings
from resrope.posgen.together import Group, fresh, groups, run_group

Report = Callable[[Cell, int], None]


def matrix(tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All combinations; a whole table per seed first, so that an interrupted run has complete ones."""
    cells = (
        Cell(task=task, method=method, seed=seed) for seed in seeds for task in tasks for method in methods
    )
    return list(dict.fromkeys(cells))


def default_jobs() -> int:
    """As many processes as processors this process may use: small models scale over cells, not threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_least_one(name: str, value: int) -> int:
    """``value`` itself. Raises ValueError when it is less than 1."""
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return value


def run_matrix(
    out: Path,
    cells: Sequence[Cell],
    settings: Settings,
    *,
    jobs: int,
    together: int = 1,
    device: str = "cpu",
    progress: Report = lambda cell, steps: None,
    finished: Callable[[Cell, dict[str, Any]], None] = lambda cell, record: None,
) -> list[dict[str, Any]]:
    """Run the cells that are not finished; return all records in the order of ``cells``.

    jobs: parallel processes; each gets its share of the processors as threads. together: cells of one task
    that are trained as one model; device: of the models. ``progress(cell, steps)`` is called as steps are
    done, ``finished`` once per cell run here. Raises ValueError when jobs or together < 1, and the first
    ValueError of a cell once the others are finished.
    """
    how: dict[str, Any] = {"together": at_least_one("together", together), "device": device}
    pending = groups(out, cells, settings, **how)
    # By all cells, not by those pending: a cell begun again must get as many threads as before.
    workers = min(at_least_one("jobs", jobs), len(fresh(cells, settings, **how)))
    if pending:
        threads = max(1, default_jobs() // workers)
        with _pool(workers, threads, progress) as pool:
            futures = {pool.submit(_work, out, group, settings, device): group for group in pending}
            _collect(futures, finished)
    return [record for cell in cells if (record := read_record(out, cell)) is not None]


def _collect(
    futures: dict[Future[list[dict[str, Any]]], Group], finished: Callable[[Cell, dict[str, Any]], None]
) -> None:
    failed: list[ValueError] = []
    try:
        for future in as_completed(futures):
            try:
                records = future.result()
            except ValueError as error:  # the others are trained first
                failed.append(error)
                continue
            for cell, record in zip(futures[future].cells, records, strict=True):
                finished(cell, record)
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process was killed (out of memory?); run again to go on, with fewer --jobs"
        ) from error
    finally:
        for future in futures:
            future.cancel()
    if failed:
        raise failed[0]


@contextmanager
def _pool(workers: int, threads: int, progress: Report) -> Iterator[ProcessPoolExecutor]:
    """Spawned workers (torch does not survive a fork), and a thread that hands on their progress."""
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(queue, progress), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (queue, threads, os.getpid()))
    try:
        yield pool
    except BaseException:
        # A worker that dies may hold the queue's lock: nothing may wait for the queue from here on.
        _stop(pool)
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    queue.put(None)
    listener.join()


def _stop(pool: ProcessPoolExecutor) -> None:
    """End running cells at once: their checkpoints are whole at every moment."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


def _listen(queue: Any, progress: Report) -> None:
    while (message := queue.get()) is not None:
        progress(*message)


_queue: Any = None
_threads = 1


def _begin_worker(queue: Any, threads: int, parent: int) -> None:
    global _queue, _threads
    _queue, _threads = queue, threads
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent cannot stop its workers; they notice, rather than race with its successor."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(out: Path, group: Group, settings: Settings, device: str) -> list[dict[str, Any]]:
    torch.set_num_threads(_threads)  # the cell before may have gone on with another number
    told = time.monotonic()
    waiting = 0

    def progress(steps: int) -> None:
        nonlocal told, waiting
        waiting += steps
        if time.monotonic() - told > 0.25:
            _queue.put((group.cells[0], waiting))
            told, waiting = time.monotonic(), 0

    records = run_group(out, group, settings, device=device, progress=progress)
    _queue.put((group.cells[0], waiting))
    return records
