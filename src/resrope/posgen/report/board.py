"""The leaderboard: all results of one setting side by side, on a page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resrope.page import Grid, Link, Page
from resrope.posgen.evaluate import counted
from resrope.posgen.report.result import Result, check
from resrope.posgen.report.summary import rules_alone
from resrope.posgen.report.tables import share
from resrope.posgen.settings import Settings
from resrope.posgen.tasks import TASKS
from resrope.posgen.titles import title
from resrope.stats import summarise

# Fields that do not change what is measured.
_FREE = ("looks", "look_rows", "free_running_rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One method of one result on one task: OOD accuracy and its far part by seed, at the last step."""

    task: str
    method: str
    result: Result
    ood: Sequence[float]
    far: Sequence[float]


def entries(result: Result) -> list[Entry]:
    """Of every task and method."""
    settings = check(result)
    pairs = dict.fromkeys((cell["task"], cell["method"]) for cell in result["cells"])
    made = []
    for task, method in pairs:
        cells = [c for c in result["cells"] if (c["task"], c["method"]) == (task, method)]
        found = [counted(settings, task, cell["last"]) for cell in cells]
        far = [f["ood_far"] for f in found if f["ood_far"] is not None]
        ood = [f["ood"] or 0.0 for f in found]
        made.append(Entry(task=task, method=method, result=result, ood=ood, far=far))
    return made


def board(results: Iterable[Result]) -> Page:
    """A table for every setting and task, the best far accuracy first, then the best OOD accuracy."""
    by_setting: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_setting.setdefault(_setting(check(result)), []).append(result)
    grids = []
    for words, group in by_setting.items():
        settings = check(group[0])
        rows = [entry for result in group for entry in entries(result)]
        grids += [_grid(*words, settings, task, [e for e in rows if e.task == task]) for task in TASKS]
    return Page(
        heading="PosGen leaderboard",
        facts=[
            "OOD accuracy: of tokens at positions that training never saw, at the last step; in brackets "
            "95 % intervals over seeds.",
            "far: of those that no rule on near tokens gives. 'Rules alone' is what a model scores that "
            "finds no token by its position; an embedding at that height has shown nothing.",
        ],
        grids=[grid for grid in grids if len(grid.rows) > 1],
        captions={},
        made_by="resrope posgen board",
    )


def _grid(words: str, more: str, settings: Settings, task: str, rows: Sequence[Entry]) -> Grid:
    def height(entry: Entry) -> tuple[float, float]:
        return (sum(entry.far) / len(entry.far) if entry.far else 0.0, sum(entry.ood) / len(entry.ood))

    cells = [
        [
            title(entry.method),
            _percent(entry.ood),
            _percent(entry.far),
            str(len(entry.ood)),
            _name(entry.result),
            entry.result["by"],
        ]
        for entry in sorted(rows, key=height, reverse=True)
    ]
    for window, scores in rules_alone(settings, task).items():
        ood, far = scores["ood"], scores["ood_far"]
        share = "–" if far is None else f"{100 * far:.1f}"
        cells.append([f"Rules alone, {window} tokens", f"{100 * (ood or 0.0):.1f}", share, "", "", ""])
    return Grid(
        f"{title(task)}: {words}",
        ["embedding", "OOD accuracy, %", "far, %", "seeds", "result", "by"],
        cells if rows else [],
        more,
    )


def _name(result: Result) -> str:
    """Its title, which leads to where it says more."""
    return Link(result["title"], result["link"]) if "link" in result else str(result["title"])


def _percent(values: Sequence[float]) -> str:
    summary = summarise(values)
    return share(None if summary is None else asdict(summary))


def _setting(settings: Settings) -> tuple[str, str]:
    """In words what has to be the same for a comparison, and every other difference from the paper."""
    plain, given = Settings().to_dict(), settings.to_dict()
    told: list[str] = [
        f"h = {settings.h} mod {settings.modulus}",
        f"{settings.train_length} → {settings.test_length} tokens",
        f"{settings.n_layers} layers of {settings.d_model}",
        f"{settings.epochs} epochs",
    ]
    known = ("h", "modulus", "train_length", "test_length", "n_layers", "d_model", "epochs", *_FREE)
    changed: dict[str, Any] = {k: v for k, v in given.items() if k not in known and v != plain[k]}
    return ", ".join(told), ", ".join(f"{k} {v}" for k, v in changed.items())
