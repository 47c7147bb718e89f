"""Whether a trained model looks at the far token: what its heads attend to, and how accuracy falls with
distance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resrope.page import Grid
from resrope.pictures import figure
from resrope.posgen.cell import prepared
from resrope.posgen.locality import kinds
from resrope.posgen.record import Cell, cell_folder, read_record, read_run, read_tensors
from resrope.posgen.settings import Settings
from resrope.posgen.tables import title

Array = npt.NDArray[np.float64]
_ROWS = 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looked:
    """One cell, after the last step. weight: what a head gives the front tokens when it predicts position l,
    mean over sequences, [n_layers, n_heads, length]. maps: the same for all positions read, [n_layers,
    n_heads, length (predicted), length (read)]. correct: share of right answers by position, [length]."""

    cell: Cell
    settings: Settings
    weight: Array
    maps: Array
    correct: Array

    @property
    def distance(self) -> npt.NDArray[np.int64]:
        """From every position back to the first of its front tokens, [length]; 0 on the prefix."""
        task = self.settings.task(self.cell.task)
        first = task.prefix_length
        return np.array([0] * first + [p - task.sources(p)[0] for p in range(first, len(self.correct))])

    @property
    def needed(self) -> bool:
        """Whether any position is far."""
        return bool(kinds(self.settings.task(self.cell.task), len(self.correct))["far"].any())

    @property
    def far(self) -> npt.NDArray[np.bool_]:
        """Positions that no rule on near tokens gives; all generated ones where there are none of them."""
        found = kinds(self.settings.task(self.cell.task), len(self.correct))["far"]
        return found if found.any() else self.distance > 0


def look(run: Path, cell: Cell, rows: int = _ROWS) -> Looked:
    """Read the weights after the last step and run them over ``rows`` test sequences.

    Raises ValueError where the cell is not finished.
    """
    _, settings = read_run(run)
    record = read_record(run, cell)
    if record is None:
        raise ValueError(f"{run} holds no finished cell {cell.name}")
    work = prepared(cell, settings)
    work.trainer.load(read_tensors(cell_folder(run, cell) / "last.safetensors")[0])
    tokens = work.test[:rows, :-1]
    weights = work.trainer.model.attention(tokens, work.where(tokens.shape[1])).mean(1).double().numpy()
    # Row l of a map is the query that predicts position l: the token before it.
    length, before = settings.test_length, settings.before
    maps = np.zeros((*weights.shape[:2], length, length))
    predicted = np.arange(1 - before, length)
    maps[:, :, predicted, : length - 1] = weights[:, :, predicted + before - 1, before:]
    weight = np.zeros(maps.shape[:3])
    for position in range(work.task.prefix_length, length):
        front = list(work.task.sources(position)[: work.task.j])
        weight[:, :, position] = maps[:, :, position, front].sum(-1)
    last = record["last"]
    correct = np.array(last["correct_by_position"]) / last["rows"]
    return Looked(cell=cell, settings=settings, weight=weight, maps=maps, correct=correct)


def grid(looked: Looked) -> Grid:
    """Every head: its weight on the front tokens, in distribution and beyond."""
    train, far = looked.settings.train_length, looked.far
    inside, beyond = far.copy(), far.copy()
    inside[train:], beyond[:train] = False, False
    where = "at the positions that need them"
    if not looked.needed:
        where = "at all generated positions, of which rules on near tokens give every one"
    even = looked.settings.j / np.maximum(1, np.arange(len(far)))
    rows = [
        [f"layer {layer}, head {head}", *(_percent(weight[where]) for where in (inside, beyond))]
        for layer, heads in enumerate(looked.weight)
        for head, weight in enumerate(heads)
    ]
    rows.append(["right answers", *(_percent(looked.correct[where]) for where in (inside, beyond))])
    return Grid(
        f"{title(looked.cell.task)}, {title(looked.cell.method)}: what goes to the front token",
        ["%", f"positions below {train}", "beyond"],
        rows,
        f"Mean attention on the front tokens {where}, and how many answers are right there. A model that "
        "looked evenly at all tokens would give them "
        f"{_percent(even[inside])} and {_percent(even[beyond])}.",
    )


def _percent(values: Array) -> str:
    return f"{100 * values.mean():.1f}" if values.size else "–"


def drawn(looked: Looked) -> Any:
    """The curves over position and over distance, then a map of every head."""
    layers, heads = looked.weight.shape[:2]
    columns = max(2, heads)
    made, axes = figure(1 + layers, columns, width=4.2)
    position = np.flatnonzero(looked.distance > 0)
    for layer in range(layers):
        for head in range(heads):
            label = f"layer {layer}, head {head}"
            axes[0][0].plot(position, 100 * looked.weight[layer, head, position], linewidth=1.0, label=label)
            axis = axes[1 + layer][head]
            axis.imshow(looked.maps[layer, head] ** 0.5, cmap="magma", vmin=0, vmax=1, aspect="auto")
            axis.set_title(label, fontsize=9)
            axis.set_xlabel("attended")
            axis.set_ylabel("predicted")
    axes[0][0].axvline(looked.settings.train_length - 0.5, color="0.4", linewidth=0.8, linestyle=":")
    axes[0][0].set_xlabel("position")
    axes[0][0].set_ylabel("attention on the front token (%)")
    axes[0][0].legend(fontsize=7, frameon=False)
    far = np.flatnonzero(looked.far)
    axes[0][1].plot(looked.distance[far], 100 * looked.correct[far], ".", markersize=3)
    axes[0][1].axhline(100 / looked.settings.modulus, color="0.7", linewidth=0.8)
    axes[0][1].set_xlabel("distance to the front token")
    axes[0][1].set_ylabel("accuracy (%)")
    for axis in axes[0]:
        axis.set_ylim(-2, 102)
    for spare in [*axes[0][2:], *(a for row in axes[1:] for a in row[heads:])]:
        spare.set_visible(False)
    return made
