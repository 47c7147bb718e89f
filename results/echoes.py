"""Does accuracy fall where the table says? `python results/echoes.py results/small results/wavelengths`

A head that looks r tokens back looks r + D back too where the fast features have nearly come round in D
tokens (`resrope.analysis.recurrences`). The first position with a token so far back is r + D. Reads kept runs
(`keep.py`), predicts from every method's table alone at which positions accuracy should fall, and writes
echoes.md, .json and .png into this folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resrope.analysis import recurrence, recurrences
from resrope.files import atomic_write
from resrope.page import Grid, Page
from resrope.pictures import figure, png, style, title
from resrope.posgen.locality import kinds
from resrope.posgen.record import read_run
from resrope.posgen.settings import Settings
from resrope.spec import Frequencies

HERE = Path(__file__).parent
PEAKS, STEP = 4, 0.02  # how many of the highest are a prediction; a fall in accuracy that is told
Curve = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fall:
    """One method of one run.

    peaks: the distances D at which its table recurs most. steps: positions where the mean accuracy falls by
    two points or more. share: of all falls beyond the training length, those at D … D + j + k + 1; positions:
    the share of positions that these are. chance: the share of rotations of the peaks that catch as much.
    falls: by position.
    """

    run: str
    method: str
    cells: int
    peaks: list[int]
    steps: list[int]
    share: float
    positions: float
    chance: float
    falls: list[float]


def main(runs: Sequence[Path], out: Path = HERE) -> None:
    """Predict, count, write."""
    curves, found = [], []
    for run in runs:
        _, settings = read_run(run)
        records = json.loads((run / "records.json").read_text("utf-8"))
        for method in dict.fromkeys(r["cell"]["method"] for r in records):
            own = [r for r in records if r["cell"]["method"] == method]
            table = Frequencies.from_dict(own[0]["embedding"]["testing"])
            fall, curve = measured(run.name, settings, own, table)
            found.append(fall)
            curves.append(curve)
    pictures = {"echoes.png": png(_drawn(found, curves, settings))}
    atomic_write(out / "echoes.png", pictures["echoes.png"])
    atomic_write(out / "echoes.json", json.dumps([asdict(f) for f in found], indent=1) + "\n")
    atomic_write(out / "echoes.md", _page(found, settings, runs).markdown())


def measured(
    run: str, settings: Settings, records: Sequence[dict[str, Any]], table: Frequencies
) -> tuple[Fall, Curve]:
    """What one method's cells lose, held against its table; and the table's recurrence."""
    train, length = settings.train_length, settings.test_length
    falls = np.mean([_falls(settings, record) for record in records], axis=0)
    curve = recurrence(table, train, length)
    peaks = sorted(one.distance for one in recurrences(table, train, length)[:PEAKS])
    inside = _near(peaks, settings)
    lost = np.maximum(falls[train:], 0)
    caught = [float(lost[np.roll(inside[train:], by)].sum()) for by in range(length - train)]
    fall = Fall(
        run=run,
        method=records[0]["cell"]["method"],
        cells=len(records),
        peaks=peaks,
        steps=[int(p) for p in np.flatnonzero(falls >= STEP) if p >= train],
        share=caught[0] / float(lost.sum() or 1.0),
        positions=float(inside[train:].mean()),
        chance=float(np.mean([c >= caught[0] for c in caught])),
        falls=[round(float(f), 4) for f in falls],
    )
    return fall, curve


def _falls(settings: Settings, record: dict[str, Any]) -> Curve:
    """By how much the accuracy at near positions is lower than at the near position before; 0 elsewhere."""
    near = kinds(settings.task(record["cell"]["task"]), settings.test_length)["near"]
    right = np.array(record["last"]["correct_by_position"]) / record["last"]["rows"]
    falls = np.zeros(len(right))
    there = np.flatnonzero(near)
    falls[there[1:]] = right[there[:-1]] - right[there[1:]]
    return falls


def _near(peaks: Sequence[int], settings: Settings) -> npt.NDArray[np.bool_]:
    """The positions where a token r + D back, r = 1 … j + k, first is there; one more on either side, because
    a peak is not narrower."""
    position = np.arange(settings.test_length)
    span = settings.j + settings.k + 1
    return np.array([any(d <= p <= d + span for d in peaks) for p in position])


def _page(found: Sequence[Fall], settings: Settings, runs: Sequence[Path]) -> Page:
    rows = [
        [
            f.run,
            title(f.method),
            str(f.cells),
            ", ".join(map(str, f.peaks)) or "–",
            ", ".join(map(str, f.steps)) or "–",
            f"{100 * f.share:.0f}",
            f"{100 * f.positions:.0f}",
            f"{f.chance:.3f}",
        ]
        for f in found
    ]
    header = ["run", "method", "cells", "D from the table", "accuracy falls at"]
    header += ["of the fall, %", "of the positions, %", "chance"]
    return Page(
        heading="Where accuracy falls beyond the training length, and where the table says it does",
        facts=[
            f"D: the {PEAKS} distances beyond the training length at which the features that turn within "
            "it come back most (highest peaks of their mean cosine).",
            f"Falls: of {100 * STEP:.0f} points or more between two positions that a rule on near tokens "
            "gives, mean over tasks and seeds, after the last step.",
            f"Of the fall: how much of it lies from D to D + {settings.j + settings.k + 1}, where a head "
            "that looks at one of the last j + k tokens first finds a token D further back; beside it, how "
            "many of the positions these are.",
            "Chance: of all rotations of these positions among those beyond training, the share that catch "
            "as much.",
        ],
        grids=[Grid("Predicted and measured", header, rows)],
        captions={
            "echoes.png": "Grey: the mean cosine of a table's fast features at a distance, moved on by the "
            "j + k tokens that a rule reads; dotted: its highest peaks. Bars: how much accuracy falls."
        },
        made_by=f"python results/echoes.py {' '.join(f'results/{run.name}' for run in runs)}",
    )


def _drawn(found: Sequence[Fall], curves: Sequence[Curve], settings: Settings) -> Any:
    made, axes = figure(len(found), 1, width=10, height=1.7)
    train, position = settings.train_length, np.arange(settings.test_length)
    for fall, curve, axis in zip(found, curves, axes[:, 0], strict=True):
        look = style(fall.method)
        axis.bar(position[train:], 100 * np.maximum(fall.falls[train:], 0), color=look["color"], width=1.0)
        axis.set_ylabel("fall (points)", fontsize=8)
        axis.set_title(f"{fall.run}: {title(fall.method)}", fontsize=9, loc="left")
        other = axis.twinx()
        other.plot(position[train:] + settings.j + settings.k, curve[train:], color="0.6", linewidth=0.9)
        for peak in fall.peaks:
            other.axvline(peak + settings.j + settings.k, color="0.7", linewidth=0.8, linestyle=":")
        other.set_ylim(0, 1)
        other.set_ylabel("mean cosine", fontsize=8, color="0.5")
        axis.set_xlim(train, settings.test_length)
    axes[-1][0].set_xlabel("position")
    return made


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(f"usage: {sys.argv[0]} results/RUN …")
    main([Path(argument) for argument in sys.argv[1:]])
