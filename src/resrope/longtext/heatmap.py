"""The picture of passkey retrieval: a map of lengths and depths for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resrope.longtext.retrieval import Retrieval
from resrope.pictures import figure, save, title

# Dark to bright in lightness too, so that it reads in grey and with any colour vision.
_COLOURS = "cividis"
_COLUMNS = 3


def draw(found: Retrieval, path: Path) -> None:
    """Write the picture of ``heatmap``; format by suffix."""
    save(heatmap(found), path)


def heatmap(found: Retrieval) -> Any:
    """A matplotlib figure: share of keys found, depth downwards, length to the right, one map per method.

    The line marks where the lengths pass the model's own context. Raises ImportError without matplotlib.
    """
    columns = min(_COLUMNS, len(found.methods))
    rows = -(-len(found.methods) // columns)
    width = max(3.2, 1.4 + 0.62 * len(found.plan.lengths))
    made, axes = figure(rows, columns, width=width, height=max(2.2, 1.2 + 0.34 * len(found.plan.depths)))
    for axis in axes.flat[len(found.methods) :]:
        axis.set_axis_off()
    for axis, method in zip(axes.flat, found.methods, strict=False):
        _map(axis, found, method)
    return made


def _map(axis: Any, found: Retrieval, method: str) -> None:
    plan = found.plan
    cells = found.methods[method]
    shares = np.array([cell.correct / cell.trials for cell in cells])
    grid = shares.reshape(len(plan.lengths), len(plan.depths)).T
    axis.imshow(grid, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(grid):
        colour = "white" if share < 0.5 else "black"
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(plan.lengths)), [_short(n) for n in plan.lengths], fontsize=8)
    axis.set_yticks(range(len(plan.depths)), [f"{100 * d:.0f} %" for d in plan.depths], fontsize=8)
    axis.set_xlabel("tokens")
    axis.set_ylabel("depth of the key")
    axis.set_title(f"{title(method)}: {100 * found.accuracy(method):.0f} % found", fontsize=9)
    _mark(axis, found)


def _mark(axis: Any, found: Retrieval) -> None:
    """A line behind the last length that the model as it is serves."""
    lengths, native = found.plan.lengths, found.native_length
    known = sum(native is not None and length <= native for length in lengths)
    if native is not None and 0 < known < len(lengths):
        axis.axvline(known - 0.5, color="#d1495b", linewidth=2)
        axis.set_xlabel(f"tokens (line: the model's own {_short(native)})")


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
