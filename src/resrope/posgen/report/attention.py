"""Whether a trained model looks at the far token, and what else its heads look at beyond the training length:
weights by position and by distance, and accuracy by distance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resrope.page import Grid
from resrope.pictures import figure
from resrope.posgen.locality import kinds, windows
from resrope.posgen.record import Cell
from resrope.posgen.report.tables import number
from resrope.posgen.settings import Settings
from resrope.posgen.titles import title
from resrope.posgen.work import trained

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
    def by_distance(self) -> Array:
        """What a head gives the token d before the one it predicts: mean over the positions that training
        never met and that have such a token, [n_layers, n_heads, length]; 0 for d = 0."""
        length, train = len(self.correct), self.settings.train_length
        made = np.zeros(self.weight.shape)
        for d in range(1, length):
            predicted = np.arange(max(d, train), length)
            made[:, :, d] = self.maps[:, :, predicted, predicted - d].mean(-1)
        return made

    def reached(self, nearest: int, farthest: int, positions: npt.NDArray[np.bool_]) -> Array:
        """What a head gives the tokens ``nearest`` to ``farthest`` back from ``positions``, mean over these.

        [n_layers, n_heads]
        """
        read = np.arange(len(self.correct))
        back = np.flatnonzero(positions)[:, None] - read
        chosen = (back >= nearest) & (back <= farthest)
        return np.array((self.maps[:, :, positions] * chosen).sum(-1).mean(-1))

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
    work, record = trained(run, cell)
    settings = work.settings
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
    """Every head: its weight on the front tokens, on near ones and on those at distances that training never
    met, in distribution and beyond."""
    train, far = looked.settings.train_length, looked.far
    length, near = len(far), windows(looked.settings.task(looked.cell.task))[0]
    before = looked.settings.before
    first_unmet = train + before  # the last position of training reads back to the token before the sequence
    sides = [_within(far, 0, train), _within(far, train, length)]
    inside, beyond = sides
    every = [_within(looked.distance > 0, 0, train), _within(looked.distance > 0, train, length)]
    where = "at the positions that need them"
    if not looked.needed:
        where = "at all generated positions, of which rules on near tokens give every one"
    even = looked.settings.j / np.maximum(1, np.arange(len(far)))
    nearby = [looked.reached(1, near, side) for side in every]
    columns = [*nearby, looked.reached(first_unmet, length, every[1])]
    columns += [1 - looked.maps[:, :, every[1]].sum(-1).mean(-1)] if before else []
    rows = [
        [
            f"layer {layer}, head {head}",
            *(_percent(weight[side]) for side in sides),
            *(_percent(column[layer, head]) for column in columns),
        ]
        for layer, heads in enumerate(looked.weight)
        for head, weight in enumerate(heads)
    ]
    rows.append(["right answers", *(_percent(looked.correct[side]) for side in sides), *[""] * len(columns)])
    return Grid(
        f"{title(looked.cell.task)}, {title(looked.cell.method)}: where its heads look",
        [
            "%",
            f"front, below {train}",
            "front, beyond",
            f"last {near}, below {train}",
            f"last {near}, beyond",
            f"{first_unmet} and more back, beyond",
            *(["before the sequence, beyond"] if before else []),
        ],
        rows,
        f"Mean attention on the front tokens {where}, and how many answers are right there. A model that "
        "looked evenly at all tokens would give them "
        f"{_percent(even[inside])} and {_percent(even[beyond])}. Then, at all generated positions, what goes "
        f"to the last {near} tokens, and to those so far back that training never met the distance.",
    )


def _within(mask: npt.NDArray[np.bool_], start: int, stop: int) -> npt.NDArray[np.bool_]:
    position = np.arange(len(mask))
    return mask & (position >= start) & (position < stop)


def _percent(values: Array) -> str:
    return number(float(values.mean()) if values.size else None)


def drawn(looked: Looked) -> Any:
    """The curves over position and over distance, then a map of every head."""
    layers, heads = looked.weight.shape[:2]
    columns = max(2, heads)
    made, axes = figure(2 + layers, columns, width=3.4, height=2.6)
    half = (columns + 1) // 2
    left, right = (_joined(made, part) for part in (axes[0][:half], axes[0][half:]))
    _curves(looked, left, _joined(made, axes[1]))
    _accuracy(looked, right)
    for layer in range(layers):
        for head in range(heads):
            axis = axes[2 + layer][head]
            axis.imshow(looked.maps[layer, head] ** 0.5, cmap="magma", vmin=0, vmax=1, aspect="auto")
            axis.set_title(f"layer {layer}, head {head}", fontsize=9)
            axis.set_xlabel("attended")
            axis.set_ylabel("predicted")
    for spare in (a for row in axes[2:] for a in row[heads:]):
        spare.set_visible(False)
    return made


def _joined(made: Any, axes: Any) -> Any:
    """One axis in the place of some that stand beside each other."""
    first, last = (axes[i].get_subplotspec() for i in (0, -1))
    for axis in axes:
        axis.remove()
    return made.add_subplot(first.get_gridspec()[first.num1 : last.num2 + 1])


def _curves(looked: Looked, by_position: Any, by_distance: Any) -> None:
    """What every head gives the front token, and what it gives the token so far back."""
    position, distance = np.flatnonzero(looked.distance > 0), looked.by_distance
    for layer, heads in enumerate(looked.weight):
        for head, weight in enumerate(heads):
            # A style for each layer, a colour for each head: ten colours in all would come round.
            look = {"linewidth": 1.0, "label": f"layer {layer}, head {head}", "color": f"C{head % 10}"}
            look["linestyle"] = ("-", "--", ":", "-.")[layer % 4]
            by_position.plot(position, 100 * weight[position], **look)
            by_distance.plot(100 * distance[layer, head], **look)
    for axis in (by_position, by_distance):
        axis.axvline(looked.settings.train_length - 0.5, color="0.4", linewidth=0.8, linestyle=":")
    by_position.set_xlabel("position")
    by_position.set_ylabel("on the front token (%)")
    by_position.set_ylim(-2, 102)
    many = looked.weight.shape[0] * looked.weight.shape[1] > 8
    by_position.legend(fontsize=5 if many else 7, ncols=2 if many else 1, frameon=False)
    by_distance.set_xlabel("tokens back from the one predicted, at positions that training never met")
    by_distance.set_ylabel("attention (%)")
    by_distance.set_yscale("symlog", linthresh=1)
    by_distance.set_ylim(bottom=0)


def _accuracy(looked: Looked, axis: Any) -> None:
    """By the distance to the front token; by position where that is always the same."""
    far = np.flatnonzero(looked.far)
    varied = np.ptp(looked.distance[far]) > 0
    axis.plot(looked.distance[far] if varied else far, 100 * looked.correct[far], ".", markersize=3)
    axis.axhline(100 / looked.settings.modulus, color="0.7", linewidth=0.8)
    axis.set_xlabel("distance to the front token" if varied else "position")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(-2, 102)
