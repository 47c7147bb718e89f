"""Does accuracy fall where the table says? `python results/echoes.py results/small results/wavelengths`

A head that looks r tokens back may look r + D back too where the fast features have nearly come round in D
tokens (`resrope.analysis.recurrences`). The first position with a token so far back is r + D. Reads kept runs
(`keep.py`), predicts from every method's table alone at which positions accuracy should fall, and writes
echoes.md, .json and .png into this folder. Methods without a table, and those that train on distances beyond
the training length, are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resrope.analysis import recurrence, recurrences
from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.page import Grid, Page
from resrope.pictures import figure, png, style, title
from resrope.posgen.locality import kinds
from resrope.posgen.record import read_run
from resrope.posgen.settings import Settings
from resrope.posgen.titles import title as task_title
from resrope.spec import Frequencies
from resrope.spec.methods import RESONANCE

HERE = Path(__file__).parent
PEAKS, STEP = 4, 0.02  # how many of the highest are a prediction; a fall in accuracy that is told
ELSEWHERE = ("randomised-rope", "pose")  # trained at positions beyond the training length
Curve = npt.NDArray[np.float64]
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fall:
    """One method on one task of a run, mean over its cells.

    peaks: the distances D at which its table recurs most. steps: positions where accuracy falls by two points
    or more. net: by how much it falls in all beyond the training length. share: how much of that lies at D …
    D + j + k + 1, None where nothing falls; positions: the share of positions that these are; chance: the
    share of rotations of them that catch as much. other: the share at the D of the same method with
    Resonance, or without. falls: by position.
    """

    run: str
    task: str
    method: str
    cells: int
    peaks: list[int]
    steps: list[int]
    net: float
    share: float | None
    positions: float
    chance: float | None
    other: float | None
    falls: list[float]


def main(runs: list[Path], out: Path = HERE) -> None:
    """Predict, count, write; cells that a run took over from one before are told once."""
    read = [_read(run) for run in runs]
    first = read[0][0]
    for settings, run in zip((s for s, _ in read), runs, strict=True):
        if _shape(settings) != _shape(first):
            raise ValueError(f"{run}: j, k, lengths and eos_prefix must be those of {runs[0]}")
    found: dict[tuple[str, str, str], Fall] = {}
    for run, (settings, records) in zip(runs, read, strict=True):
        for fall in falls(run.name, settings, records):
            found.setdefault((fall.task, fall.method, repr(fall.falls)), fall)
    told = list(found.values())
    tables = {
        (run.name, m): t
        for run, (_, records) in zip(runs, read, strict=True)
        for m, t in _tables(records).items()
    }
    atomic_write(out / "echoes.png", png(_drawn(told, tables, first)))
    atomic_write(out / "echoes.json", json.dumps([asdict(f) for f in told], indent=1) + "\n")
    atomic_write(out / "echoes.md", _page(told, first, runs).markdown())


def _read(run: Path) -> tuple[Settings, list[Record]]:
    try:
        return read_run(run)[1], json.loads((run / "records.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{run} must be a kept run: {error}") from None


def _shape(settings: Settings) -> tuple[int, ...]:
    return (settings.j, settings.k, settings.train_length, settings.test_length, settings.before)


def _tables(records: Sequence[Record]) -> dict[str, Frequencies]:
    """By method, of those that have one and that training did not take beyond its length."""
    return {
        r["cell"]["method"]: Frequencies.from_dict(r["embedding"]["testing"])
        for r in records
        if "testing" in r["embedding"] and r["cell"]["method"] not in ELSEWHERE
    }


def falls(run: str, settings: Settings, records: Sequence[Record]) -> Iterator[Fall]:
    """What every method loses on every task, held against its table and against that of its counterpart."""
    tables = _tables(records)
    for task in dict.fromkeys(r["cell"]["task"] for r in records):
        for method, table in tables.items():
            own = [r for r in records if (r["cell"]["task"], r["cell"]["method"]) == (task, method)]
            if own:
                plain = method.removeprefix(RESONANCE)
                other = tables.get(plain if plain != method else RESONANCE + method)
                yield _fall(run, settings, own, table, other)


def _fall(
    run: str, settings: Settings, own: Sequence[Record], table: Frequencies, other: Frequencies | None
) -> Fall:
    cell = own[0]["cell"]
    near = np.flatnonzero(kinds(settings.task(cell["task"]), settings.test_length)["near"])
    right = np.mean([np.array(r["last"]["correct_by_position"]) / r["last"]["rows"] for r in own], axis=0)
    beyond = np.flatnonzero(near >= settings.train_length)
    lost = right[near[beyond - 1]] - right[near[beyond]]
    net = float(lost.sum())
    peaks = _peaks(table, settings)
    inside = _inside(peaks, near, beyond, settings)
    caught = [float(lost[np.roll(inside, by)].sum()) for by in range(len(lost))]
    theirs = None if other is None else lost[_inside(_peaks(other, settings), near, beyond, settings)].sum()
    return Fall(
        run=run,
        task=cell["task"],
        method=cell["method"],
        cells=len(own),
        peaks=peaks,
        steps=[int(p) for p, by in zip(near[beyond], lost, strict=True) if by >= STEP],
        net=net,
        share=caught[0] / net if net > STEP else None,
        positions=float(inside.mean()) if len(inside) else 0.0,
        chance=float(np.mean([c >= caught[0] for c in caught])) if net > STEP else None,
        other=float(theirs) / net if theirs is not None and net > STEP else None,
        falls=_by_position(settings, near[beyond], lost),
    )


def _peaks(table: Frequencies, settings: Settings) -> list[int]:
    found = recurrences(table, settings.train_length, settings.test_length)[:PEAKS]
    return sorted(one.distance for one in found)


def _inside(
    peaks: Sequence[int], near: npt.NDArray[np.int64], beyond: npt.NDArray[np.int64], settings: Settings
) -> npt.NDArray[np.bool_]:
    """Which falls may be those of a token r + D back, r = 1 … j + k, that is there for the first time; one
    more on either side, because a peak is not narrower. A fall is met at the next position that a near rule
    gives."""
    span = settings.j + settings.k + 1
    pairs = zip(near[beyond - 1] + 1, near[beyond], strict=True)
    before = settings.before
    met = [any(a <= d - before + span and d - before <= b for d in peaks) for a, b in pairs]
    return np.array(met, dtype=np.bool_)


def _by_position(settings: Settings, where: npt.NDArray[np.int64], lost: Curve) -> list[float]:
    made = np.zeros(settings.test_length)
    made[where] = lost
    return [round(float(by), 4) for by in made]


def _page(found: Sequence[Fall], settings: Settings, runs: Sequence[Path]) -> Page:
    rows = [
        [
            f"{f.run}, {task_title(f.task)}, {title(f.method)}",
            str(f.cells),
            ", ".join(map(str, f.peaks)) or "–",
            ", ".join(map(str, f.steps)) or "–",
            *(_percent(share) for share in (f.net, f.share, f.positions)),
            "–" if f.chance is None else f"{f.chance:.3f}",
            _percent(f.other),
        ]
        for f in found
    ]
    header = ["", "cells", "D from the table", "accuracy falls at", "by in all, points", "of that at D, %"]
    header += ["of the positions, %", "chance", "at the other D, %"]
    return Page(
        heading="Where accuracy falls beyond the training length, and where the table says it does",
        facts=[
            f"D: the {PEAKS} distances beyond the training length at which the features that turn within "
            "it come back most (highest peaks of their mean cosine).",
            f"Falls: of {100 * STEP:.0f} points or more between two positions that a rule on near tokens "
            "gives, mean over seeds, after the last step.",
            f"At D: from D to D + {settings.j + settings.k + 1}, where a head that looks at one of the last "
            "j + k tokens first finds a token D further back; beside it, how many of the positions these "
            "are.",
            "Chance: of all rotations of these positions among those beyond training, the share that catch "
            "as much. Neighbouring rotations are not independent, and accuracy can fall only while it is "
            "high, which favours early peaks.",
            "The other D: those of the same method with Resonance, or without.",
        ],
        grids=[Grid("Predicted and measured", header, rows)],
        captions={
            "echoes.png": "Grey: the mean cosine of a table's fast features at a distance, moved on by the "
            "j + k tokens that a rule reads; dotted: its highest peaks. Bars: how much accuracy falls, mean "
            "over tasks."
        },
        made_by=f"python results/echoes.py {' '.join(map(str, runs))}",
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def _drawn(found: Sequence[Fall], tables: Mapping[tuple[str, str], Frequencies], settings: Settings) -> Any:
    """A row for every method of a run."""
    places = list(dict.fromkeys((f.run, f.method) for f in found))
    made, axes = figure(len(places), 1, width=10, height=1.7)
    train, length, span = settings.train_length, settings.test_length, settings.j + settings.k
    position = np.arange(train, length)
    for (run, method), axis in zip(places, axes[:, 0], strict=True):
        own = [f for f in found if (f.run, f.method) == (run, method)]
        lost = 100 * np.maximum(np.mean([f.falls for f in own], axis=0), 0)
        axis.bar(position, lost[train:], color=style(method)["color"], width=1.0)
        axis.set_ylabel("fall (points)", fontsize=8)
        axis.set_title(f"{run}: {title(method)}", fontsize=9, loc="left")
        other = axis.twinx()
        curve = recurrence(tables[run, method], train, length)
        other.plot(position + span, curve[train:], color="0.6", linewidth=0.9)
        for peak in own[0].peaks:
            other.axvline(peak + span, color="0.7", linewidth=0.8, linestyle=":")
        other.set_ylim(0, 1)
        other.set_ylabel("mean cosine", fontsize=8, color="0.5")
        axis.set_xlim(train, length)
    axes[-1][0].set_xlabel("position")
    return made


if __name__ == "__main__":
    script(main)
