"""A run on disk: its settings, and per cell a checkpoint while it trains and a record once it is done.

OUT/run.json                       schema, preset, settings: what every cell shares
OUT/cells/<cell>/record.json       the finished cell
OUT/cells/<cell>/{last,best}.safetensors   weights after the last step, and at the best look
OUT/cells/<cell>/checkpoint.safetensors    only while it is unfinished
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from resrope import rundir
from resrope.files import atomic_write
from resrope.posgen.settings import Settings
from resrope.rundir import read_json

SCHEMA = "resrope-posgen-1"
CHECKPOINTS = ("last", "best")
"""A record's measurements."""
_PARTS = {"cell": dict, "settings": dict, "embedding": dict, "history": list, "made": dict} | dict.fromkeys(
    CHECKPOINTS, dict
)


_MADE = {"resrope", "torch", "numpy", "python", "machine", "threads"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One model to train: a task, a position embedding, a seed."""

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder: ``cot-resonance-yarn-seed0``."""
        return f"{self.task}-{self.method.replace(':', '.')}-seed{self.seed}"


def begun(out: Path, settings: Settings) -> bool:
    """Whether ``out`` is the folder of a run of these settings; False where it is empty or not there.

    Raises ValueError when it holds other settings (naming them) or something else.
    """
    if (out / "run.json").is_file():  # also where it was begun before a field was there
        rundir.check_same(out, read_run(out)[1].to_dict(), settings.to_dict())
        return True
    return rundir.begun(out, SCHEMA, settings.to_dict())


def open_run(out: Path, preset: str, settings: Settings) -> None:
    """Create the folder of a run, or make sure that it is one of the same settings.

    Raises ValueError like ``begun``. Of processes that may do so at once, the one that holds it
    (``rundir.only_run``).
    """
    if not begun(out, settings):
        rundir.open_run(out, SCHEMA, settings.to_dict(), preset=preset)


def read_run(out: Path) -> tuple[str, Settings]:
    """The preset's name and the settings of the run in ``out``. Raises ValueError if there is none."""
    run = rundir.read_run(out, SCHEMA)
    # What a run from before a field was there does not name has its default, which is how it was then.
    if "preset" not in run or not set(run["settings"]) <= {f.name for f in fields(Settings)}:
        raise ValueError(f"{out / 'run.json'} does not hold the settings of this version of resrope")
    return str(run["preset"]), Settings(**run["settings"])


def read_records(out: Path) -> list[dict[str, Any]]:
    """The finished cells' records, in the order of their names.

    Raises ValueError for what is none, or one of other settings than the run's.
    """
    wanted = _wanted(out)
    return [_read(path, wanted) for path in sorted(out.glob("cells/*/record.json"))]


def read_record(out: Path, cell: Cell) -> dict[str, Any] | None:
    """The finished cell's record, None while it is not finished. Raises ValueError like ``read_records``."""
    path = cell_folder(out, cell) / "record.json"
    return _read(path, _wanted(out)) if path.exists() else None


def _wanted(out: Path) -> dict[str, Any] | None:
    """The settings of the run that ``out`` is; None where it is none, as where a cell is run alone."""
    return read_run(out)[1].to_dict() if (out / "run.json").is_file() else None


def _read(path: Path, wanted: dict[str, Any] | None) -> dict[str, Any]:
    """Of this schema and these settings, of the cell whose folder it is in, with counts at every position and
    seconds."""
    record = read_json(path)
    if record.get("schema") != SCHEMA:
        raise ValueError(f"{path} must be of schema {SCHEMA}, got {record.get('schema')!r}")
    wrong = [name for name, kind in _PARTS.items() if not isinstance(record.get(name), kind)]
    if not wrong:
        cell = record["cell"]
        named = {"task": str, "method": str, "seed": int}
        if {key: type(value) for key, value in cell.items()} != named or Cell(
            **cell
        ).name != path.parent.name:
            wrong = ["cell"]
        length = record["settings"].get("test_length")
        made = record["made"]
        if not isinstance(made.get("seconds"), int | float) or not made.keys() >= _MADE:
            wrong.append("made")
        if not record["history"] or not all(map(_is_a_look, record["history"])):
            wrong.append("history")
        wrong += [name for name in CHECKPOINTS if not _measured(record[name], length)]
    if wrong:
        raise ValueError(f"{path} is damaged ({', '.join(wrong)}); delete it to run that cell again")
    # A field that was not there yet has its default, which is how it was then.
    theirs = Settings().to_dict() | record["settings"]
    if wanted is not None and (different := rundir.differences(theirs, wanted)):
        raise ValueError(
            f"{path} is of other settings than its run: {different}; delete it to run that cell again"
        )
    return record


def _is_a_look(entry: object) -> bool:
    """Whether it says when, and what the validation loss was."""
    numbers = ("step", "epoch", "validation_loss")
    return isinstance(entry, dict) and all(isinstance(entry.get(n), int | float) for n in numbers)


def _measured(part: dict[str, Any], length: object) -> bool:
    """Whether it counts right answers at every position."""
    correct, rows = part.get("correct_by_position"), part.get("rows")
    if not isinstance(correct, list) or not isinstance(rows, int) or len(correct) != length:
        return False
    return rows > 0 and all(isinstance(n, int) and 0 <= n <= rows for n in correct)


def write_record(out: Path, cell: Cell, record: dict[str, Any]) -> None:
    """Finish a cell: its record appears whole, and only then the checkpoint goes."""
    folder = cell_folder(out, cell)
    atomic_write(folder / "record.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def cell_folder(out: Path, cell: Cell) -> Path:
    """Where the cell's files lie."""
    return out / "cells" / cell.name


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], notes: dict[str, Any]) -> None:
    """Tensors and JSON notes in one safetensors file, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save(tensors, metadata={"notes": json.dumps(notes)}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Inverse of ``write_tensors``. Raises ValueError on a damaged file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["notes"])  # noqa: SIM118


def read_notes(path: Path) -> dict[str, Any]:
    """The notes alone."""
    with _opened(path) as file:
        notes: dict[str, Any] = json.loads(file.metadata()["notes"])
        return notes


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete its folder to start again") from error
