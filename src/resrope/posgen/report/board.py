"""The leaderboard: all results of one setting side by side, on a page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from resrope.page import Grid, Link, Page
from resrope.posgen.embeddings.wavelengths import LISTED
from resrope.posgen.evaluate import counted
from resrope.posgen.presets import PRESETS
from resrope.posgen.report.result import Result, check
from resrope.posgen.report.summary import rules_alone
from resrope.posgen.report.tables import number, share
from resrope.posgen.settings import Settings
from resrope.posgen.tasks import TASKS
from resrope.posgen.titles import title
from resrope.stats import summarise

# Fields that do not change what is measured, and one that belongs to the embedding.
_FREE = ("looks", "look_rows", "free_running_rows", "wavelengths")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One method of one result on one task: OOD accuracy and its far part by seed, at the last step.

    rules: the far accuracy of rules on as many tokens as training reads, None where no position is far.
    """

    task: str
    method: str
    result: Result
    ood: Sequence[float]
    far: Sequence[float]
    rules: float | None

    def of(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell of a result is one of this entry's."""
        return bool((cell["task"], cell["method"]) == (self.task, self.method))

    @property
    def height(self) -> tuple[float, float]:
        """Of the order: far accuracy counts where its interval over seeds lies above what rules score."""
        rules, far = self.rules or 0.0, summarise(self.far)
        shown = far is not None and far.low is not None and far.low > rules
        return (far.mean if far and shown else rules), fmean(self.ood)


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
        rules = list(rules_alone(settings, task).values())[-1]["ood_far"]
        made.append(Entry(task=task, method=method, result=result, ood=ood, far=far, rules=rules))
    return made


def board(results: Iterable[Result]) -> Page:
    """A table for every setting and task, in the order of ``Entry.height``; no cells stand there twice."""
    by_setting: dict[str, list[Result]] = {}
    for result in results:
        given = check(result).to_dict()
        by_setting.setdefault(repr([v for k, v in given.items() if k not in _FREE]), []).append(result)
    grids = []
    for group in by_setting.values():
        rows = _once([entry for result in group for entry in entries(result)])
        grids += [_grid(group[0], task, [e for e in rows if e.task == task]) for task in TASKS]
    return Page(
        heading="PosGen leaderboard",
        facts=[
            "OOD accuracy: of tokens at positions that training never saw, at the last step; in brackets "
            "95 % intervals over seeds.",
            "far: of those that no rule on the last 4·(j+k) tokens gives. 'Rules alone' is what a model "
            "scores that finds no token by its position, the longest rules on as many tokens as training "
            "reads; an embedding at that height has shown nothing.",
            "In order of far accuracy where its interval lies above the longest rules', then of OOD "
            "accuracy; where intervals overlap the order says little.",
        ],
        grids=[grid for grid in grids if len(grid.rows) > 1],
        captions={},
        made_by="resrope posgen board",
    )


def _once(found: Sequence[Entry]) -> list[Entry]:
    """Without entries whose every cell stands in another one: a run that took them over. Of equal ones the
    first."""
    cells = [
        {repr((c["task"], c["method"], c["seed"], c["last"])) for c in entry.result["cells"] if entry.of(c)}
        for entry in found
    ]

    def held(index: int) -> bool:
        mine = cells[index]
        return any(mine < other or (mine == other and at < index) for at, other in enumerate(cells))

    return [entry for index, entry in enumerate(found) if not held(index)]


def _grid(result: Result, task: str, rows: Sequence[Entry]) -> Grid:
    settings = check(result)
    cells = [
        [_embedding(e), _percent(e.ood), _percent(e.far), str(len(e.ood)), _name(e.result), e.result["by"]]
        for e in sorted(rows, key=lambda e: e.height, reverse=True)
    ]
    for window, scores in rules_alone(settings, task).items():
        cells.append(
            [f"Rules alone, {window} tokens", number(scores["ood"]), number(scores["ood_far"]), "", "", ""]
        )
    return Grid(
        f"{title(task)}: {_setting(result, settings)}",
        ["embedding", "OOD accuracy, %", "far, %", "seeds", "result", "by"],
        cells if rows else [],
        _details(settings),
    )


def _embedding(entry: Entry) -> str:
    """Its name, and of a list the wavelengths shorter than what training reads."""
    settings = entry.result["settings"]
    fast = [str(w) for w in settings["wavelengths"] if w < settings["train_length"]]
    listed = entry.method.startswith(LISTED)
    return title(entry.method) + (f" ({', '.join([*fast, '…'])})" if listed else "")


def _name(result: Result) -> str:
    """Its title, which leads to where it says more."""
    return Link(result["title"], result["link"]) if "link" in result else str(result["title"])


def _percent(values: Sequence[float]) -> str:
    summary = summarise(values)
    return share(None if summary is None else asdict(summary))


def _setting(result: Result, settings: Settings) -> str:
    """The preset and what differs from it."""
    name = result["preset"] if result["preset"] in PRESETS else "paper"
    return ", ".join([f"preset {name}", *_changed(settings, PRESETS[name])])


def _details(settings: Settings) -> str:
    """What it comes to, and every other difference from the paper."""
    told = [
        f"h = {settings.h} mod {settings.modulus}",
        f"{settings.train_length} → {settings.test_length} tokens",
        f"{settings.n_layers} layers of {settings.d_model}",
        f"{settings.epochs} epochs",
    ]
    known = ("h", "modulus", "train_length", "test_length", "n_layers", "d_model", "epochs")
    return ", ".join([*told, *_changed(settings, Settings(), known)])


def _changed(settings: Settings, usual: Settings, known: Sequence[str] = ()) -> list[str]:
    plain, left_out = usual.to_dict(), (*known, *_FREE)
    given = settings.to_dict().items()
    return [f"{k} {v}" for k, v in given if k not in left_out and v != plain[k]]
