"""From the setting of the authors' code to the paper's, one switch at a time: which makes which claim."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resrope import stats
from resrope.files import atomic_write
from resrope.page import Grid, Page
from resrope.pictures import figure, png, style
from resrope.posgen.paired import ood, paired
from resrope.posgen.presets import SWITCHES, released
from resrope.posgen.record import begun, open_run, read_run
from resrope.posgen.report.claims import RULES, claims, compared, counted
from resrope.posgen.report.summary import cells_of, methods_of, summarise_run, tasks_of
from resrope.posgen.report.tables import ended_early, percent, share
from resrope.posgen.settings import Settings
from resrope.posgen.titles import title

Record = dict[str, Any]
Summary = dict[str, Any]
_REGIONS = {"ood": "OOD accuracy", "in_distribution": "accuracy in distribution"}
RELEASED, PAPER = "released", "paper"
"""The foot of a ladder; the rung that the switches thrown alone are held against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A setting of the ladder. name: what was changed since the one before, ``released`` at its foot."""

    name: str
    settings: Settings

    def folder(self, out: Path, number: int) -> Path:
        """Where its cells lie: a run like any other."""
        return out / f"{number}-{self.name}"


def ladder(paper: Settings) -> list[Rung]:
    """From ``released(paper)`` to ``paper``, each rung with one more switch turned back."""
    settings, wanted = _thrown(paper), asdict(paper)
    made = [Rung(name=RELEASED, settings=settings)]
    for name, fields in SWITCHES.items():
        settings = settings.override({field: wanted[field] for field in fields})
        made.append(Rung(name=name, settings=settings))
    return made


def alone(paper: Settings) -> list[Rung]:
    """``paper``, and with every switch of the authors' code thrown alone."""
    theirs = asdict(_thrown(paper))
    thrown = (
        Rung(name=name, settings=paper.override({field: theirs[field] for field in fields}))
        for name, fields in SWITCHES.items()
    )
    return [Rung(name=PAPER, settings=paper), *thrown]


def apart(rungs: Sequence[Rung]) -> bool:
    """Whether these are switches thrown ``alone``, no ``ladder``."""
    return rungs[0].name == PAPER


def held(out: Path) -> dict[Path, Rung]:
    """The runs that ``open_all`` made in ``out`` and their rungs, in order; none where it is no audit."""
    found = {}
    for folder in (file.parent for file in out.glob("[0-9]*-*/run.json")):
        number, name = folder.name.split("-", 1)
        found[number] = folder, Rung(name=name, settings=read_run(folder)[1])
    runs = dict(found[number] for number in sorted(found, key=lambda n: (len(n), n)))
    whole = found.keys() == set(map(str, range(len(found))))
    return runs if whole and found and found["0"][1].name in (RELEASED, PAPER) else {}


def _thrown(paper: Settings) -> Settings:
    settings = released(paper)
    if settings == paper:
        raise ValueError("preset must be quick, small or paper, got the setting of the authors' code itself")
    return settings


def open_all(out: Path, preset: str, rungs: Sequence[Rung]) -> list[Path]:
    """The folders of all rungs, made or found. Raises ValueError where one holds other settings."""
    if (out / "run.json").exists():
        raise ValueError(f"{out} must be a folder for an audit, but it is that of a run")
    folders = [rung.folder(out, number) for number, rung in enumerate(rungs)]
    pairs = list(zip(folders, rungs, strict=True))
    for folder, rung in pairs:  # nothing is made beside a folder of other settings
        begun(folder, rung.settings)
    for folder, rung in pairs:
        open_run(folder, preset, rung.settings)
    return folders


def write_audit(out: Path, rungs: Sequence[Rung]) -> tuple[list[Grid], dict[str, Path]]:
    """Write audit.md, audit.html, audit.json and audit.png from what is finished; the tables and the files.

    The tables are those of OOD accuracies, of what every switch changes, of what Resonance adds and of how
    many claims hold; the pages have accuracies in distribution and claim by claim too. Each rung of a ladder
    is held against the one above, a switch thrown alone against the first setting. Raises ValueError when no
    rung has a finished cell, ImportError without matplotlib.
    """
    found, claimed, runs = {}, {}, list[list[Record]]()
    for number, rung in enumerate(rungs):
        folder = rung.folder(out, number)
        if any(folder.glob("cells/*/record.json")):
            found[rung.name], records = summarise_run(folder)
            claimed[rung.name] = claims(rung.settings, records)
            before = runs[0 if apart(rungs) else -1] if runs else []
            runs.append(records)
            found[rung.name]["claims"] = [asdict(claim) for claim in claimed[rung.name]]
            found[rung.name]["switch_effect"] = _switched(rung.settings, records, before)
    if not found:
        raise ValueError(f"{out} has no finished cell yet")
    tasks = _tasks(found)
    above = "first setting" if apart(rungs) else "rung above"
    grids = [g for t in tasks for g in (_accuracies(found, t), _changes(found, t, above), _added(found, t))]
    grids.append(counted(claimed))
    learnt = [_accuracies(found, t, "in_distribution") for t in tasks]
    picture = png(_drawn(found))
    page = Page(
        heading="Every switch of the authors' code, alone"
        if apart(rungs)
        else "From the authors' code to the paper, one switch at a time",
        facts=_facts(found, runs),
        grids=[*grids, *learnt, *(compared(claimed, task) for task in tasks)],
        captions={
            "audit.png": "OOD accuracy at the lowest-loss or chosen checkpoint, rung by rung: the mean, and "
            "every seed (a dot with Resonance, a cross without)."
        },
        made_by="resrope posgen audit",
    )
    files: dict[str, bytes | str] = {
        "audit.md": page.markdown(),
        "audit.html": page.html({"audit.png": picture}),
        "audit.json": json.dumps(found, indent=1, allow_nan=False) + "\n",
        "audit.png": picture,
    }
    for name, content in files.items():
        atomic_write(out / name, content)
    return grids, {name: out / name for name in files}


def verdict(effect: Summary | None) -> str:
    """What an interval over seeds says of an effect."""
    sign = 0 if effect is None else stats.Summary(**effect).sign
    return {1: "helps", -1: "hurts", 0: "undecided"}[sign]


def _tasks(found: dict[str, Summary]) -> list[str]:
    return list(dict.fromkeys(task for summary in found.values() for task in summary["tasks"]))


def _methods(found: dict[str, Summary]) -> list[str]:
    return list(dict.fromkeys(method for summary in found.values() for method in summary["methods"]))


def _switched(settings: Settings, records: list[Record], before: list[Record]) -> Summary:
    """What a switch changed in OOD accuracy, paired by seed: by task and method."""
    made: Summary = {}
    for task in tasks_of(records):
        for method in methods_of(records):
            here, there = (cells_of(those, task, method) for those in (records, before))
            if (effect := stats.summarise(paired(here, there, ood(settings, "best")))) is not None:
                made.setdefault(task, {})[method] = asdict(effect)
    return made


def _by_rung(
    found: dict[str, Summary],
    heading: str,
    methods: Sequence[str],
    told: Callable[[Summary, str], str],
    note: str,
) -> Grid:
    rows = [[name, *(told(summary, method) for method in methods)] for name, summary in found.items()]
    return Grid(heading, ["switch", *map(title, methods)], rows, note)


def _accuracies(found: dict[str, Summary], task: str, region: str = "ood") -> Grid:
    """Of every embedding."""
    return _by_rung(
        found,
        f"{title(task)}: {_REGIONS[region]}, %",
        _methods(found),
        lambda summary, method: share(_accuracy(summary, task, method, region)),
        "At the checkpoint that the setting calls its best; ± standard deviation [95 % interval] over seeds.",
    )


def _changes(found: dict[str, Summary], task: str, above: str) -> Grid:
    """What every switch did to that."""
    return _by_rung(
        found,
        f"{title(task)}: what the switch changes in OOD accuracy, percentage points",
        _methods(found),
        lambda summary, method: percent(summary["switch_effect"].get(task, {}).get(method)),
        f"From the {above}, paired by seed; ± standard deviation [95 % interval].",
    )


def _added(found: dict[str, Summary], task: str) -> Grid:
    """The effect of Resonance, paired by seed, and what can be said of its sign."""
    plain = list(dict.fromkeys(p for s in found.values() for p in s["resonance_effect"].get(task, {})))

    def told(summary: Summary, method: str) -> str:
        effect = summary["resonance_effect"].get(task, {}).get(method, {}).get("best")
        return f"{percent(effect)}: {verdict(effect)}"

    return _by_rung(
        found,
        f"{title(task)}: what Resonance adds, percentage points",
        plain,
        told,
        "Paired by seed, at the checkpoint that the setting calls its best (the claims below take the last "
        "step). It helps or hurts where the interval leaves 0 out; one seed decides nothing.",
    )


def _accuracy(summary: Summary, task: str, method: str, region: str = "ood") -> Summary | None:
    """At the checkpoint that the setting calls its best; None where there is no finished cell."""
    entry: Summary = summary["accuracy"].get(task, {}).get(method, {}).get("best", {})
    return entry.get(region)


def _facts(found: dict[str, Summary], runs: Sequence[Sequence[Record]]) -> list[str]:
    taken = sum("taken_from" in record["made"] for records in runs for record in records)
    seconds = sum(s for summary in found.values() for s in summary["seconds"].values())
    cells = sum(len(summary["seconds"]) for summary in found.values())
    seeds = sorted({seed for summary in found.values() for seed in summary["seeds"]})
    early = [f"{name}: {line}" for name, s in found.items() for line in ended_early(s["settled"])]
    made = sorted({line for summary in found.values() for line in summary["made"]})
    seeded = f"seeds {', '.join(map(str, seeds))}"
    which = f", {taken} of them those of a rung above," if taken else ","
    return [f"{cells} cells{which} {seconds:.0f} s in all; {seeded}.", *early, *made, *RULES]


def _drawn(found: dict[str, Summary]) -> Any:
    tasks = _tasks(found)
    made, axes = figure(1, len(tasks), width=4.8)
    for axis, task in zip(axes[0], tasks, strict=True):
        for method in _methods(found):
            told = [_accuracy(summary, task, method) for summary in found.values()]
            means = [(i, 100 * entry["mean"]) for i, entry in enumerate(told) if entry]
            seeds = [(i, 100 * value) for i, entry in enumerate(told) if entry for value in entry["values"]]
            (line,) = axis.plot(*np.reshape(means, (-1, 2)).T, **style(method))
            marker = "o" if line.get_linestyle() == "-" else "x"  # with Resonance, and without
            points = {"linestyle": "", "markersize": 3, "alpha": 0.6, "color": line.get_color()}
            axis.plot(*np.reshape(seeds, (-1, 2)).T, marker=marker, **points)
        axis.set_xticks(range(len(found)), list(found), rotation=40, ha="right", fontsize=8)
        axis.set_title(title(task), fontsize=10)
        axis.set_ylim(0, 101)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("OOD accuracy (%)")
    axes[0][0].legend(fontsize=7, frameon=False, handlelength=4)
    return made
