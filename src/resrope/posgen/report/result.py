"""A result as one file: what a run got right at every position, to hand in, to check and to set side by
side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from resrope.files import atomic_write
from resrope.posgen.embeddings import built_in, embedding
from resrope.posgen.record import read_records, read_run
from resrope.posgen.settings import Settings
from resrope.rundir import read_json

SCHEMA = "resrope-posgen-result-1"
Result = dict[str, Any]


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a result."""
    text = files("resrope.posgen.report").joinpath("result.schema.json").read_text(encoding="utf-8")
    made: dict[str, Any] = json.loads(text)
    return made


def result_of(run: Path, *, title: str, by: str, link: str | None = None) -> Result:
    """The result of the finished cells of ``run``. Raises ValueError where there are none, and for what
    ``check`` objects to."""
    preset, settings = read_run(run)
    records = read_records(run)
    if not records:
        raise ValueError(f"{run} has no finished cell yet")
    return result_from(preset, settings, records, title=title, by=by, link=link)


def result_from(
    preset: str,
    settings: Settings,
    records: Sequence[Mapping[str, Any]],
    *,
    title: str,
    by: str,
    link: str | None = None,
) -> Result:
    """The same of records that lie elsewhere."""
    made = {
        "schema": SCHEMA,
        "title": title,
        "by": by,
        **({} if link is None else {"link": link}),
        "preset": preset,
        "settings": settings.to_dict(),
        "cells": [_cell(record) for record in records],
    }
    check(made)
    return made


def _cell(record: Mapping[str, Any]) -> dict[str, Any]:
    counted = {
        part: {key: record[part][key] for key in ("rows", "correct_by_position")} for part in ("last", "best")
    }
    # Cells from before records carried their commit have none.
    made = {"commit": None, "date": None, **record["made"]}
    return {**record["cell"], "embedding": record["embedding"], **counted, "made": made}


def write_result(result: Result, out: Path) -> None:
    """Write ``result`` as JSON."""
    atomic_write(out, json.dumps(result, allow_nan=False) + "\n")


def read_result(path: Path) -> Result:
    """Read and check a result. Raises ValueError for what ``check`` objects to."""
    result = read_json(path)
    try:
        check(result)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return result


def check(result: Result) -> Settings:
    """Its settings. Raises ValueError with the first thing that is wrong: against the JSON Schema, then
    against the settings: tasks, positions, rows, one seed as another; and names of methods."""
    _check_schema(result)
    try:
        settings = Settings().override(result["settings"])
    except TypeError as error:
        raise ValueError(f"settings: {error}") from None
    seen: set[tuple[str, str, int]] = set()
    for cell in result["cells"]:
        name = (cell["task"], cell["method"], cell["seed"])
        if name in seen:
            raise ValueError(f"{', '.join(map(str, name))} is there twice")
        seen.add(name)
        if not built_in(cell["method"]) and "source" not in cell["embedding"]:
            raise ValueError(
                f"{cell['method']} is none of resrope's own methods, and the embedding has no source (the "
                "hash of the file that its class is in)"
            )
        if built_in(cell["method"]):
            wanted = _embedding(cell["method"], settings)
            theirs = {key: cell["embedding"].get(key) for key in wanted}
            if theirs != wanted:
                raise ValueError(f"{cell['method']}: its embedding must have {wanted}, got {theirs}")
        for part in ("last", "best"):
            _check_counts(cell[part], settings, f"{', '.join(map(str, name))}, {part}")
    _check_complete(seen)
    return settings


@cache
def _embedding(method: str, settings: Settings) -> dict[str, Any]:
    """What a record says of one of resrope's own."""
    made = embedding(method, settings, 0)
    return {"class": type(made).__qualname__, "parameters": sum(p.numel() for p in made.parameters())}


def _check_schema(result: Result) -> None:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise ImportError("results need jsonschema: pip install 'resrope[posgen]'") from error
    if result.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, got {result.get('schema')!r}")
    errors = sorted(Draft202012Validator(schema()).iter_errors(result), key=lambda e: list(map(str, e.path)))
    if errors:
        where = "/".join(map(str, errors[0].absolute_path)) or "the result"
        one_line = errors[0].validator == "not"
        words = f"must be one line, got {errors[0].instance!r}" if one_line else errors[0].message
        raise ValueError(f"{where}: {words:.200}")


def _check_counts(part: Mapping[str, Any], settings: Settings, where: str) -> None:
    correct, rows = part["correct_by_position"], part["rows"]
    if rows != settings.test_rows:
        raise ValueError(f"{where}: rows must be test_rows = {settings.test_rows}, got {rows}")
    if len(correct) != settings.test_length:
        raise ValueError(
            f"{where}: correct_by_position must have test_length = {settings.test_length} entries, "
            f"got {len(correct)}"
        )
    if any(correct[: settings.j + settings.k]):
        raise ValueError(
            f"{where}: nothing is predicted at the first j+k = {settings.j + settings.k} positions"
        )
    if max(correct) > rows:
        raise ValueError(f"{where}: {max(correct)} of {rows} rows cannot be right")


def _check_complete(cells: set[tuple[str, str, int]]) -> None:
    """The same seeds everywhere: a method is not better for the seeds it left out."""
    by_method: dict[tuple[str, str], set[int]] = {}
    for task, method, seed in cells:
        by_method.setdefault((task, method), set()).add(seed)
    every = set().union(*by_method.values())
    for (task, method), seeds in sorted(by_method.items()):
        if seeds != every:
            missing = ", ".join(map(str, sorted(every - seeds)))
            raise ValueError(f"{task}, {method} has no seed {missing}, which others have")


def results_in(places: Sequence[Path]) -> Iterator[tuple[Path, Result]]:
    """Every result among ``places``, files or folders that hold ``result.json`` somewhere below.

    Raises ValueError where there is none, and for one that ``check`` objects to.
    """
    found = [
        file
        for place in places
        for file in (sorted(place.rglob("result.json")) if place.is_dir() else [place])
    ]
    if not found:
        raise ValueError(f"no result.json lies in {', '.join(map(str, places))}")
    for file in found:
        yield file, read_result(file)
