"""Splits on disk: Parquet that `datasets.load_dataset` reads as it is, and a manifest that proves it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from resrope.files import atomic_write, beside
from resrope.posgen.functions import Tokens
from resrope.posgen.splits import SplitKind, Splits
from resrope.posgen.tasks import Task
from resrope.rundir import read_json

MANIFEST = "manifest.json"
_ENTRY = {"rows": int, "length": int, "file_sha256": str, "array_sha256": str}


def write_splits(
    out: Path, task: Task, splits: Splits, *, seed: int, version: str, split: SplitKind = "disjoint"
) -> bool:
    """Write train, validation and test.parquet (one column, `tokens`) and manifest.json to folder `out`.

    The folder appears complete or not at all. seed, split: what ``make_splits`` was given; version: that of
    resrope; for the record. Returns True
    if it wrote, False if `out` already holds exactly these splits (then nothing is touched).
    Raises ValueError if `out` holds anything else or h has no name, OSError if writing fails.
    """
    record = _record(task, splits, seed, split)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _require_same(out, record)
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    building = beside(out)
    try:
        building.mkdir()
        for name, tokens in splits.by_name().items():
            file = building / f"{name}.parquet"
            _write_parquet(file, tokens)
            record["splits"][name]["file_sha256"] = _sha256(file.read_bytes())
        atomic_write(building / MANIFEST, json.dumps(record | {"resrope": version}, indent=2) + "\n")
        building.replace(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return True


def read_splits(out: Path) -> tuple[Task, Splits]:
    """Read back what `write_splits` wrote, in the same dtype, checking every hash in the manifest.

    Raises ValueError for a folder without a manifest and for data that differ from it.
    """
    manifest = read_manifest(out)
    task = Task(**manifest["task"])
    arrays = {
        name: _read_split(out / f"{name}.parquet", task, entry) for name, entry in manifest["splits"].items()
    }
    return task, Splits(**arrays)


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest: task, seed, resrope version, and per split rows, length and the two hashes.

    Raises ValueError for a folder without one, and for a manifest.json of something else.
    """
    path = out / MANIFEST
    if not path.is_file():
        raise ValueError(f"{out} must be a folder of PosGen splits; it has no {MANIFEST}")
    manifest = read_json(path)
    if not _complete(manifest):
        raise ValueError(f"{path} is not the manifest of PosGen splits")
    try:
        Task(**manifest["task"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the manifest of PosGen splits: {error}") from None
    return manifest


def _complete(manifest: dict[str, Any]) -> bool:
    """Whether everything is there that is read of it."""
    if not {"task", "seed", "splits"} <= manifest.keys():
        return False
    task, splits = manifest["task"], manifest["splits"]
    if not (isinstance(task, dict) and isinstance(splits, dict)):
        return False
    named = splits.keys() == {field.name for field in fields(Splits)}
    return named and all(
        isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in _ENTRY.items())
        for entry in splits.values()
    )


def _record(task: Task, splits: Splits, seed: int, split: SplitKind) -> dict[str, Any]:
    """What identifies a data set: equal records mean equal bits."""
    if not isinstance(task.h, str):
        raise ValueError(f"h must be a name to be stored, got the function {task.h!r}")
    settings = asdict(task)
    entries = {
        name: {
            "rows": tokens.shape[0],
            "length": tokens.shape[1],
            "array_sha256": _sha256(tokens.astype(task.dtype).tobytes()),
        }
        for name, tokens in splits.by_name().items()
    }
    return {"task": settings, "seed": seed, "split": split, "splits": entries}


def _require_same(out: Path, record: dict[str, Any]) -> None:
    """Raise ValueError unless the folder holds exactly the recorded data, undamaged."""
    manifest = read_manifest(out)
    there = {"split": "disjoint", **manifest}  # folders from before it was there, as in the line below
    there["task"] = {"h_seed": 0, **there["task"]}
    for entry in there["splits"].values():
        entry.pop("file_sha256")
    different = [key for key in record if record[key] != there[key]]
    if different:
        raise ValueError(
            f"{out} already holds splits of other settings ({', '.join(different)} differ); "
            "choose another folder"
        )
    read_splits(out)


def _write_parquet(path: Path, tokens: Tokens) -> None:
    pa, pq = _pyarrow()
    rows, length = tokens.shape
    offsets = pa.array(np.arange(rows + 1) * length, pa.int32())
    column = pa.ListArray.from_arrays(offsets, tokens.ravel())
    pq.write_table(pa.table({"tokens": column}), path)


def _read_split(path: Path, task: Task, entry: dict[str, Any]) -> Tokens:
    """One split's array, after both of its hashes have been checked."""
    _, pq = _pyarrow()
    if not path.is_file():
        raise ValueError(f"{path} is missing, but {MANIFEST} lists it")
    if _sha256(path.read_bytes()) != entry["file_sha256"]:
        raise ValueError(f"{path} does not match the sha256 in {MANIFEST}: it was changed or damaged")
    column = pq.read_table(path)["tokens"].combine_chunks()
    flat = column.flatten().to_numpy().astype(task.dtype)
    tokens: Tokens = flat.reshape(entry["rows"], entry["length"])
    if _sha256(tokens.tobytes()) != entry["array_sha256"]:
        raise ValueError(f"the tokens of {path} do not match the sha256 in {MANIFEST}")
    return tokens


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'resrope[posgen]'") from error
    return pyarrow, pyarrow.parquet


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
