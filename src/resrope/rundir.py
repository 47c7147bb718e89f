"""The folder of a run: its settings, held against those of every later start; one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resrope.files import atomic_write, remove_leftovers

_FILE = "run.json"


def open_run(out: Path, schema: str, settings: dict[str, Any], **more: Any) -> None:
    """Create the folder of a run, or make sure that it is one of the same settings.

    settings: JSON types. more: what stands beside them and may change, e.g. a preset's name. Raises
    ValueError like ``begun``.
    """
    if begun(out, schema, settings):
        return
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    made = {"schema": schema, **more, "settings": settings}
    atomic_write(out / _FILE, json.dumps(made, indent=2) + "\n")


def begun(out: Path, schema: str, settings: dict[str, Any]) -> bool:
    """Whether ``out`` is the folder of a run of these settings; False where it is empty or not there.

    Raises ValueError when it holds a run of other settings (naming them) or something else.
    """
    if (out / _FILE).exists():
        check_same(out, read_run(out, schema)["settings"], settings)
        return True
    mine = (f".{_FILE}.", ".lock")
    if out.exists() and (not out.is_dir() or any(not p.name.startswith(mine) for p in out.iterdir())):
        raise ValueError(f"{out} must be a new folder or that of a run, but it holds something else")
    return False


def read_run(out: Path, schema: str) -> dict[str, Any]:
    """What ``open_run`` wrote. Raises ValueError for anything else."""
    path = out / _FILE
    if not path.is_file():
        raise ValueError(f"{out} must be the folder of a run; it has no {_FILE}")
    run = read_json(path)
    if run.get("schema") != schema or not isinstance(run.get("settings"), dict):
        raise ValueError(f"{path} must hold schema {schema} and settings")
    return run


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return data


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Hold the folder ``out``; released by the system however the process ends.

    Raises ValueError when another process holds it.
    """
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{out} is in use by another run; wait for it or choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def check_same(out: Path, theirs: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError where the settings of the run in ``out`` are not those wanted, naming the fields."""
    if different := differences(theirs, wanted):
        raise ValueError(f"{out} holds a run of other settings: {different}; choose another folder")


def differences(theirs: dict[str, Any], wanted: dict[str, Any]) -> str:
    """``dropout 0.0 (asked for 0.2)``, of every field that is not as wanted."""
    names = [name for name in {**wanted, **theirs} if theirs.get(name) != wanted.get(name)]
    return ", ".join(f"{n} {theirs.get(n)!r} (asked for {wanted.get(n)!r})" for n in names)
