"""A run on disk: its settings, and per cell a checkpoint while it trains and a record once it is done.

OUT/run.json                       schema, preset, settings: what every cell shares
OUT/cells/<cell>/record.json       the finished cell
OUT/cells/<cell>/{last,best}.safetensors   weights after the last step, and at the lowest loss
OUT/cells/<cell>/checkpoint.safetensors    only while it is unfinished
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from resrope.files import atomic_write, remove_leftovers
from resrope.posgen.presets import Settings

SCHEMA = "resrope-posgen-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One model to train: a task, a position embedding, a seed."""

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder: ``cot-resonance-yarn-seed0``."""
        return f"{self.task}-{self.method}-seed{self.seed}"


def open_run(out: Path, preset: str, settings: Settings) -> None:
    """Create the folder of a run, or make sure that it is one of the same settings.

    Raises ValueError when ``out`` holds other settings (naming them) or something else.
    """
    wanted = {"schema": SCHEMA, "preset": preset, "settings": asdict(settings)}
    path = out / "run.json"
    if path.exists():
        _check_same(path, wanted)
        return
    if out.is_dir():
        remove_leftovers(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} must be a new folder or a PosGen run, but it holds something else")
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(wanted, indent=2) + "\n")


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Hold the folder ``out``; released by the system however the process ends.

    Raises ValueError when another process holds it.
    """
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{out} is in use by another run; wait for it or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    theirs = _read_run_json(path)["settings"]
    different = [
        f"{k} {theirs.get(k)!r} (asked for {v!r})"
        for k, v in wanted["settings"].items()
        if theirs.get(k) != v
    ]
    if different:
        raise ValueError(
            f"{path.parent} holds a run of other settings: {', '.join(different)}; use another --out"
        )


def read_run(out: Path) -> tuple[str, Settings]:
    """The preset's name and the settings of the run in ``out``. Raises ValueError if there is none."""
    path = out / "run.json"
    if not path.is_file():
        raise ValueError(f"{out} must be the folder of a PosGen run; it has no run.json")
    run = _read_run_json(path)
    known = {f.name for f in fields(Settings)}
    if set(run["settings"]) != known:
        raise ValueError(f"{path} does not hold the settings of this version of resrope")
    return str(run["preset"]), Settings(**run["settings"])


def _read_run_json(path: Path) -> dict[str, Any]:
    run = _read_json(path)
    if run.get("schema") != SCHEMA or not isinstance(run.get("settings"), dict) or "preset" not in run:
        raise ValueError(f"{path} must hold schema {SCHEMA}, a preset and settings")
    return run


def read_records(out: Path) -> list[dict[str, Any]]:
    """The finished cells' records, in the order of their names."""
    return [_read_json(path) for path in sorted(out.glob("cells/*/record.json"))]


def read_record(out: Path, cell: Cell) -> dict[str, Any] | None:
    """The finished cell's record, None while it is not finished."""
    path = cell_folder(out, cell) / "record.json"
    return _read_json(path) if path.exists() else None


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
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads(file.metadata()["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start that cell again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return data
