"""Keep the report of a finished run: `python results/keep.py runs/quick results/quick`.

Draws the report anew, copies it and every cell's record (in one file), and writes provenance.json. Commit,
date, machine and seconds are those the cells recorded when they ran; a run of mixed commits, or of a checkout
with changes, is refused. The runs of `resrope posgen audit` are kept the same way, one folder for each rung.
`python results/keep.py results/quick results/quick` draws what is kept anew;
`python results/keep.py --unpack results/quick runs/quick` makes it a run again (without weights), for
`resrope posgen run` or `audit` to add cells to; at the commit in provenance.json, else it cannot be kept
again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from resrope.cli.shell import script
from resrope.posgen.presets import preset
from resrope.posgen.record import Cell, cell_folder, read_records, read_run, write_record
from resrope.posgen.report.audit import apart, held, write_audit
from resrope.posgen.report.page import write_report
from resrope.posgen.report.result import result_from, write_result
from resrope.posgen.report.window import window_files
from resrope.posgen.settings import Settings
from resrope.posgen.settled import FILE as SETTLED
from resrope.provenance import provenance

Records = list[dict[str, Any]]
WRITTEN = (
    *(f"{name}.json" for name in ("run", "records", "provenance", "result", "settled", "window*")),
    *(f"{name}.{kind}" for name in ("report", "audit") for kind in ("md", "html", "json")),
    "*.png",
)
"""Names that a kept folder's files have."""


def main(source: Path, out: Path, unpack: Annotated[bool, typer.Option("--unpack")] = False) -> None:
    """One of the two ways, of a run or of an audit."""
    (unpack_runs if unpack else keep)(source, out)


def keep(source: Path, out: Path) -> None:
    """Copy and describe a run or an audit, or one that is kept already."""
    _check_out(source, out)
    kept, drawn_at = source / "provenance.json", provenance()["commit"]
    with _looked_at(source) if kept.is_file() else nullcontext(source) as there:
        runs = {run: read_records(run) for run in runs_in(there)}
        told = json.loads(kept.read_text("utf-8")) if kept.is_file() else describe(there, runs)
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent) as beside:
            new = Path(beside) / out.name
            for run, records in runs.items():
                _lay_records(run, records, new / run.relative_to(there))
            (_lay_run if [*runs] == [there] else _lay_audit)(there, new)
            _lay(new / "provenance.json", {**told, "report_drawn_at": drawn_at}, indent=1)
            _put(new, out, Path(beside) / "old")


def _check_out(source: Path, out: Path) -> None:
    """Raise ValueError where something would be lost that this does not write."""
    if out.resolve() in source.resolve().parents:
        raise ValueError(f"{out} must not hold {source}")
    files = [path for path in out.rglob("*") if not path.is_dir()]
    if strange := [path for path in files if not any(map(path.match, WRITTEN))]:
        raise ValueError(f"{out} must be new, empty or kept before; it holds {strange[0].relative_to(out)}")


def _put(new: Path, out: Path, old: Path) -> None:
    """The new folder in the place of the one that is there, or that one again."""
    there = out.exists()
    if there:
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        if there:
            old.rename(out)
        raise


def runs_in(folder: Path) -> list[Path]:
    """The run that ``folder`` is, or an audit's.

    Raises ValueError where it is neither.
    """
    if (folder / "run.json").is_file():
        return [folder]
    runs = list(held(folder))
    if not runs:
        raise ValueError(f"{folder} must be the folder of a run or of an audit; it has no run.json")
    return runs


def _lay_run(run: Path, out: Path) -> None:
    """Its report and its result."""
    (name, settings), (_, files) = read_run(run), write_report(run)
    words = ", ".join([f"The project's own, preset {name}", *changed(name, settings)])
    for path in files.values():
        shutil.copyfile(path, out / path.name)
    write_result(
        result_from(name, settings, read_records(run), title=_short(words), by="resrope"), out / "result.json"
    )


def _lay_audit(audit: Path, out: Path) -> None:
    """Its tables and its picture."""
    _, files = write_audit(audit, list(held(audit).values()))
    for path in files.values():
        shutil.copyfile(path, out / path.name)


def _lay_records(run: Path, records: Records, out: Path) -> None:
    out.mkdir(parents=True)
    for path in _beside_cells(run):
        shutil.copyfile(path, out / path.name)
    _lay(out / "records.json", records)


def _lay(path: Path, content: Any, *, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def _beside_cells(run: Path) -> list[Path]:
    """What a run holds beside its cells and its report."""
    return [run / "run.json", *run.glob(SETTLED), *window_files(run)]


def _short(words: str) -> str:
    """No longer than a result's title may be."""
    return words if len(words) <= 80 else f"{words[:79]}…"


@contextmanager
def _looked_at(kept: Path) -> Iterator[Path]:
    """A run's or an audit's folder as it was, for as long as it is looked at."""
    with TemporaryDirectory() as folder:
        unpack_runs(kept, Path(folder) / "run")
        yield Path(folder) / "run"


def unpack_runs(kept: Path, out: Path) -> None:
    """A run as it was, or an audit's, without weights, from the one file of records each.

    Raises ValueError where ``out`` is there already, or ``kept`` is no kept run.
    """
    if out.exists():
        raise ValueError(f"{out} is there already")
    runs = runs_in(kept)
    if bare := [run for run in runs if not (run / "records.json").is_file()]:
        raise ValueError(f"{bare[0]} must be a kept run, with run.json and records.json")
    for run in runs:
        _unpack(run, out / run.relative_to(kept))


def _unpack(kept: Path, run: Path) -> None:
    run.mkdir(parents=True)
    for file in _beside_cells(kept):
        shutil.copy(file, run)
    for record in json.loads((kept / "records.json").read_text("utf-8")):
        cell = Cell(**record["cell"])
        cell_folder(run, cell).mkdir(parents=True)
        write_record(run, cell, record)


def describe(there: Path, runs: dict[Path, Records]) -> dict[str, Any]:
    """What made the records of all runs, and the command that makes them again."""
    records = {
        str(run.relative_to(there) / Cell(**record["cell"]).name): record
        for run, records in runs.items()
        for record in records
    }
    made = [
        {k: v for k, v in r["made"].items() if k not in ("seconds", "trained_as_one", "taken_from")}
        for r in records.values()
    ]
    if not made:
        raise ValueError(f"{there} has no finished cell yet")
    commits = sorted({str(c) for m in made for c in m.get("commits", [m["commit"]])})
    if len(commits) > 1 or commits[0] == "None" or "+" in commits[0]:
        raise ValueError(f"the cells must have run at one clean commit, got {', '.join(commits)}")
    seconds = {name: record["made"]["seconds"] for name, record in records.items()}
    return {
        "command": command(there, list(runs), list(records.values())),
        "made": {key: _told([m.get(key) for m in made]) for key in dict.fromkeys(k for m in made for k in m)},
        "seconds_per_cell": seconds,
        "seconds_in_all": round(sum(seconds.values()), 1),
    }


def _told(values: list[Any]) -> Any:
    """What is the same of all cells, or all that there is."""
    distinct = [v for i, v in enumerate(values) if v not in values[:i]]
    return distinct[0] if len(distinct) == 1 else distinct


def command(there: Path, runs: list[Path], records: Records) -> str:
    """The command line, from what the runs hold: preset, changed settings, cells."""
    said, shown = "run", runs[0]
    if runs != [there]:  # a ladder ends in the preset, switches thrown alone begin with it
        alone = apart(list(held(there).values()))
        said, shown = ("audit --alone", runs[0]) if alone else ("audit", runs[-1])
    name, settings = read_run(shown)
    chosen = {key: dict.fromkeys(str(r["cell"][key]) for r in records) for key in ("task", "method", "seed")}
    parts = [f"--task {','.join(chosen['task'])}", f"--method {','.join(chosen['method'])}"]
    return " ".join(
        [f"resrope posgen {said}", f"--preset {name}", *parts, f"--seeds {','.join(chosen['seed'])}"]
        + [f"--set {field}" for field in changed(name, settings)]
    )


def changed(name: str, settings: Settings) -> list[str]:
    """The fields that are not the preset's, as ``--set`` takes them."""
    usual = asdict(preset(name))
    new = {k: v for k, v in asdict(settings).items() if usual[k] != v}
    return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in new.items()]


if __name__ == "__main__":
    script(main)
