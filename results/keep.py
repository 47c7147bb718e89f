"""Keep the report of a finished run: `python results/keep.py runs/quick results/quick`.

Draws the report anew, copies it and every cell's record (in one file), and writes provenance.json. Commit,
date, machine and seconds are those the cells recorded when they ran; a run of mixed commits, or of a checkout
with changes, is refused. `python results/keep.py results/quick results/quick` draws what is kept anew;
`python results/keep.py --unpack results/quick runs/quick` makes it a run again (without weights), for
`resrope posgen run` to add cells to; at the commit in provenance.json, else it cannot be kept again.
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
from resrope.posgen.report.page import write_report
from resrope.posgen.report.result import result_from, write_result
from resrope.posgen.report.window import FILE as WINDOW
from resrope.posgen.settings import Settings
from resrope.posgen.settled import FILE as SETTLED
from resrope.provenance import provenance


def main(source: Path, out: Path, unpack: Annotated[bool, typer.Option("--unpack")] = False) -> None:
    """One of the two ways."""
    (unpack_run if unpack else keep_run)(source, out)


def keep_run(source: Path, out: Path) -> None:
    """Copy and describe a run, or one that is kept already."""
    kept, drawn_at = source / "provenance.json", provenance()["commit"]
    with _looked_at(source) if kept.is_file() else nullcontext(source) as run:
        name, settings = read_run(run)
        records = read_records(run)
        there = json.loads(kept.read_text("utf-8")) if kept.is_file() else describe(name, settings, records)
        words = ", ".join([f"The project's own, preset {name}", *changed(name, settings)])
        result = result_from(name, settings, records, title=_short(words), by="resrope")
        _, files = write_report(run)
        out.mkdir(parents=True, exist_ok=True)
        copied = [*files.values(), run / "run.json", *run.glob(SETTLED), *run.glob(WINDOW)]
        for path in copied:
            shutil.copyfile(path, out / path.name)
    written = {path.name for path in copied} | {"result.json", "records.json", "provenance.json"}
    for stale in (path for path in out.iterdir() if path.name not in written):
        stale.unlink()
    write_result(result, out / "result.json")
    told = {**there, "report_drawn_at": drawn_at}
    (out / "records.json").write_text(json.dumps(records) + "\n", encoding="utf-8")
    (out / "provenance.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _short(words: str) -> str:
    """No longer than a result's title may be."""
    return words if len(words) <= 80 else f"{words[:79]}…"


@contextmanager
def _looked_at(kept: Path) -> Iterator[Path]:
    """A run's folder as it was, for as long as it is looked at."""
    with TemporaryDirectory() as folder:
        unpack_run(kept, Path(folder) / "run")
        yield Path(folder) / "run"


def unpack_run(kept: Path, run: Path) -> None:
    """A run as it was, without weights, from the one file of records.

    Raises ValueError where ``run`` is there already, or ``kept`` is no kept run.
    """
    if run.exists():
        raise ValueError(f"{run} is there already")
    if not (kept / "records.json").is_file():
        raise ValueError(f"{kept} must be a kept run, with run.json and records.json")
    run.mkdir(parents=True)
    for file in (kept / "run.json", *kept.glob(SETTLED), *kept.glob(WINDOW)):
        shutil.copy(file, run)
    for record in json.loads((kept / "records.json").read_text("utf-8")):
        cell = Cell(**record["cell"])
        cell_folder(run, cell).mkdir(parents=True)
        write_record(run, cell, record)


def describe(name: str, settings: Settings, records: list[dict[str, Any]]) -> dict[str, Any]:
    """What made the records, and the command that makes them again."""
    made = [{k: v for k, v in r["made"].items() if k not in ("seconds", "trained_as_one")} for r in records]
    commits = sorted({str(m["commit"]) for m in made})
    if len(commits) > 1 or commits[0] == "None" or "+" in commits[0]:
        raise ValueError(f"the cells must have run at one clean commit, got {', '.join(commits)}")
    seconds = {Cell(**r["cell"]).name: r["made"]["seconds"] for r in records}
    return {
        "command": command(name, settings, records),
        "made": {key: _told([m.get(key) for m in made]) for key in dict.fromkeys(k for m in made for k in m)},
        "seconds_per_cell": seconds,
        "seconds_in_all": round(sum(seconds.values()), 1),
    }


def _told(values: list[Any]) -> Any:
    """What is the same of all cells, or all that there is."""
    distinct = [v for i, v in enumerate(values) if v not in values[:i]]
    return distinct[0] if len(distinct) == 1 else distinct


def command(name: str, settings: Settings, records: list[dict[str, Any]]) -> str:
    """The run's command line, from what the run holds: preset, changed settings, cells."""
    chosen = {key: dict.fromkeys(str(r["cell"][key]) for r in records) for key in ("task", "method", "seed")}
    parts = [f"--task {','.join(chosen['task'])}", f"--method {','.join(chosen['method'])}"]
    return " ".join(
        ["resrope posgen run", f"--preset {name}", *parts, f"--seeds {','.join(chosen['seed'])}"]
        + [f"--set {field}" for field in changed(name, settings)]
    )


def changed(name: str, settings: Settings) -> list[str]:
    """The fields that are not the preset's, as ``--set`` takes them."""
    usual = asdict(preset(name))
    new = {k: v for k, v in asdict(settings).items() if usual[k] != v}
    return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in new.items()]


if __name__ == "__main__":
    script(main)
