"""The same matrix on a Ray cluster: a cell is a task anywhere, its files come home to one folder."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resrope.files import atomic_write
from resrope.posgen.record import Cell, cell_folder, read_record
from resrope.posgen.settings import Settings
from resrope.posgen.train import total_steps

# Tries of a cell whose worker dies.
_TRIES = 4
# For a first answer of a cluster.
_SECONDS = 10
# Where ray:// listens unless told otherwise.
_CLIENT_PORT = "10001"
_RECORD = "record.json"


def run_on_cluster(
    out: Path,
    cells: Sequence[Cell],
    settings: Settings,
    *,
    address: str,
    progress: Callable[[Cell, int], None] = lambda cell, steps: None,
    finished: Callable[[Cell, dict[str, Any]], None] = lambda cell, record: None,
) -> list[dict[str, Any]]:
    """Run the cells that are not finished, one processor and one thread each; all records in the order of
    ``cells``.

    A cell begins at its first step, whatever checkpoint lies in ``out``.
    address: ``host:port`` or ``ray://host:port`` of a cluster, ``auto`` for the one that this machine
    belongs to, ``local`` for a new one of this machine. A cell whose worker dies begins again elsewhere,
    three times at most. Raises ValueError where no cluster answers, and what a cell raised; finished cells
    stay. ImportError without Ray.
    """
    pending = [cell for cell in cells if read_record(out, cell) is None]
    if pending:
        with _connected(address, pending) as ray:
            task = ray.remote(num_cpus=1, max_retries=_TRIES - 1)(_work)
            running = {task.remote(cell, settings): cell for cell in pending}
            failed: list[ValueError] = []
            while running:
                (done, *_), _ = ray.wait(list(running))
                cell = running.pop(done)
                try:
                    _bring_home(out, cell, _result(ray, done, cell))
                except ValueError as error:  # the others are brought home first
                    failed.append(error)
                    continue
                progress(cell, total_steps(settings))
                record = read_record(out, cell)
                assert record is not None
                finished(cell, record)
            if failed:
                raise failed[0]
    return [record for cell in cells if (record := read_record(out, cell)) is not None]


def _result(ray: Any, done: Any, cell: Cell) -> dict[str, bytes]:
    try:
        files: dict[str, bytes] = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, ValueError) else error) from None
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"{cell.name}: its worker died {_TRIES} times ({type(error).__name__}); finished cells are kept, "
            "run again to go on"
        ) from None
    return files


def _bring_home(out: Path, cell: Cell, files: dict[str, bytes]) -> None:
    """The record last: a cell is finished once it is there."""
    folder = cell_folder(out, cell)
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name == _RECORD):
        atomic_write(folder / name, files[name])
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # of an earlier start on this machine


def _work(cell: Cell, settings: Settings) -> dict[str, bytes]:
    """On a worker: the cell's files by name."""
    import torch

    from resrope.posgen.cell import run_cell

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run_cell(Path(folder), cell, settings)
        return {file.name: file.read_bytes() for file in cell_folder(Path(folder), cell).iterdir()}


def check_cluster(address: str) -> None:
    """Before anything is begun: raise ImportError without Ray, ValueError where nobody listens at
    ``address``, or something else does."""
    _ray()
    with _answering(address):
        _knock(address)
        _ask(address)


@contextmanager
def _connected(address: str, cells: Sequence[Cell]) -> Iterator[Any]:
    """Ray, connected; disconnected at the end."""
    ray = _ray()
    with _answering(address):
        _knock(address)
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_environment(cells)
        )
    try:
        yield ray
    finally:
        ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(_TRIES - 1))  # for ever, else
    try:
        import ray
    except ImportError as error:
        raise ImportError("--cluster needs Ray: pip install 'resrope[cluster]'") from error
    return ray


@contextmanager
def _answering(address: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, OSError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"no Ray cluster answers at {address}: {said:.200}") from None


def _asked(address: str) -> str:
    """What ``auto`` stands for, where the environment says."""
    return os.environ.get("RAY_ADDRESS", "") if address == "auto" else address


def _ask(address: str) -> None:
    """Raise OSError where what listens there is no Ray: Ray itself would go on asking for many minutes."""
    address = _asked(address)
    if ":" not in address or address.startswith("ray://"):
        return
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        healthy = subprocess.run(words, capture_output=True, timeout=3 * _SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise ConnectionError("what listens there is no Ray, or one that is not well")


def _knock(address: str) -> None:
    """Raise OSError where nobody listens there: Ray would go on asking for many minutes."""
    address = _asked(address)
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") and not colon:
        host, port = port, _CLIENT_PORT
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()


def _environment(cells: Sequence[Cell]) -> dict[str, Any]:
    """Where workers find embeddings of a user's own: their modules travel along."""
    from importlib.util import find_spec

    names = {cell.method.partition(":")[0] for cell in cells if ":" in cell.method}
    if not names:
        return {}
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    specs = (find_spec(name.partition(".")[0]) for name in names)
    return {"py_modules": [_whole(Path(s.origin)) for s in specs if s is not None and s.origin]}


def _whole(origin: Path) -> str:
    """A module's file, a package's folder."""
    return str(origin.parent if origin.name == "__init__.py" else origin)
