"""Which integers should wavelengths be? `python results/wavelengths.py results/small results/wavelengths …`

Reads kept runs (`keep.py`) that differ in their methods and in the listed wavelengths alone, and writes
wavelengths.md into this folder: every choice of wavelengths without scaling beside plain RoPE, paired by
seed, and how far its fast features come back beyond the training length (`resrope.analysis.recurrences`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from resrope.analysis import recurrences
from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.page import Grid, Page
from resrope.pictures import title
from resrope.posgen.embeddings import when_trained
from resrope.posgen.embeddings.wavelengths import CHOICES, LISTED
from resrope.posgen.paired import ood, paired
from resrope.posgen.record import read_run
from resrope.posgen.settings import Settings
from resrope.posgen.tasks import TASKS
from resrope.posgen.titles import title as task_title
from resrope.spec import Frequencies
from resrope.stats import Summary, summarise

HERE = Path(__file__).parent
PLAIN = "rope"
Record = Mapping[str, Any]
Cells = dict[tuple[str, str, int], Record]
"""By method, task and seed."""


def main(runs: list[Path], out: Path = HERE) -> None:
    """Read, pair, write."""
    settings, cells = _read(runs)
    atomic_write(out / "wavelengths.md", page(settings, cells, runs).markdown())


def _read(runs: Sequence[Path]) -> tuple[Settings, Cells]:
    first: Settings | None = None
    cells: Cells = {}
    for run in runs:
        settings = read_run(run)[1].override({"wavelengths": ()})
        if settings != (first or settings):
            raise ValueError(f"{run}: settings other than wavelengths must be those of {runs[0]}")
        first = settings
        for record in json.loads((run / "records.json").read_text("utf-8")):
            cell = record["cell"]
            if _is_a_choice(cell["method"]):
                cells.setdefault((cell["method"], cell["task"], cell["seed"]), record)
    if first is None or not any(method == PLAIN for method, _, _ in cells):
        raise ValueError(f"one of the runs must hold method {PLAIN}")
    return first, cells


def _is_a_choice(method: str) -> bool:
    """RoPE without scaling, and with any other wavelengths."""
    return method == PLAIN or method in {f"{prefix}-{PLAIN}" for prefix in ("resonance", LISTED, *CHOICES)}


def page(settings: Settings, cells: Cells, runs: Sequence[Path]) -> Page:
    """The table, a row for every choice."""
    methods = list(dict.fromkeys(method for method, _, _ in cells))
    tasks = [task for task in TASKS if any(cell[1] == task for cell in cells)]
    header = ["", "fast wavelengths", "comes back at"]
    for task in tasks:
        header += [f"{task_title(task)}, OOD %", "over RoPE, points"]
    rows = [
        [title(method), *_table(settings, cells, method), *_scores(settings, cells, tasks, method)]
        for method in methods
    ]
    return Page(
        heading="Which integers should wavelengths be?",
        facts=[
            "After the last step, mean over seeds; over RoPE: paired by seed, with its 95 % interval.",
            f"Fast: below the training length of {settings.train_length}. Comes back at: the distance beyond "
            "it at which they nearly stand together again most, and their mean cosine there.",
            *_alike(settings, methods),
        ],
        grids=[Grid("Choices of wavelengths", header, rows)],
        captions={},
        made_by=f"python results/wavelengths.py {' '.join(map(str, runs))}",
    )


def _alike(settings: Settings, methods: Sequence[str]) -> list[str]:
    """Which choices need no row, because their table is that of one."""
    tables = {method: when_trained(method, settings) for method in methods if LISTED not in method}
    others = [f"{choice}-{PLAIN}" for choice in CHOICES if f"{choice}-{PLAIN}" not in methods]
    return [
        f"{title(other)} has the table of {title(method)} here, and so its numbers."
        for other in others
        for method, table in tables.items()
        if when_trained(other, settings) == table
    ]


def _table(settings: Settings, cells: Cells, method: str) -> list[str]:
    record = next(record for (name, _, _), record in cells.items() if name == method)
    table = Frequencies.from_dict(record["embedding"]["testing"])
    fast = sorted(w for w in table.wavelengths if w < settings.train_length)
    peak = next(iter(recurrences(table, settings.train_length, settings.test_length)), None)
    told = "–" if peak is None else f"{peak.distance} ({peak.cosine:.2f})"
    return [", ".join(f"{w:.4g}" for w in fast), told]


def _scores(settings: Settings, cells: Cells, tasks: Sequence[str], method: str) -> list[str]:
    told, share = [], ood(settings)
    for task in tasks:
        own, plain = (
            {seed: r for (name, t, seed), r in cells.items() if (name, t) == (which, task)}
            for which in (method, PLAIN)
        )
        over = summarise([100 * points for points in paired(own, plain, share)])
        mean = f"{100 * fmean(map(share, own.values())):.1f}" if own else "–"
        told += [mean, "" if method == PLAIN else _signed(over)]
    return told


def _signed(over: Summary | None) -> str:
    if over is None:
        return "–"
    if over.low is None or over.high is None:
        return f"{over.mean:+.1f}"
    return f"{over.mean:+.1f} [{over.low:+.1f}, {over.high:+.1f}]"


if __name__ == "__main__":
    script(main)
