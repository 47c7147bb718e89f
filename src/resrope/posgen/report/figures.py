"""The report's pictures: Figure 3 with the OOD accuracy beneath it, accuracy by kind of position, and by
position."""

from __future__ import annotations

from itertools import zip_longest
from statistics import fmean
from typing import Any

import numpy as np

from resrope.pictures import figure as new_figure
from resrope.pictures import png, style
from resrope.posgen.evaluate import regions
from resrope.posgen.locality import KINDS, windows
from resrope.posgen.report.summary import cells_of
from resrope.posgen.settings import Settings
from resrope.posgen.titles import title

Record = dict[str, Any]
# By kind of position, in the order of KINDS.
_MARKS = (None, "x", "o")


def draw_all(summary: dict[str, Any], records: list[Record]) -> dict[str, bytes]:
    """PNG files by name. Raises ImportError without matplotlib."""
    pictures = {
        "training.png": _training(summary, records),
        "kinds.png": drawn_kinds(summary, records),
        "positions.png": _positions(summary, records),
    }
    return {name: png(picture) for name, picture in pictures.items() if picture is not None}


def _training(summary: dict[str, Any], records: list[Record]) -> Any:
    """Validation loss (Figure 3) and OOD accuracy against epochs, mean over seeds."""
    tasks = summary["tasks"]
    figure, axes = new_figure(2, len(tasks))
    for column, task in enumerate(tasks):
        for method in summary["methods"]:
            cells = list(cells_of(records, task, method).values())
            axes[0][column].plot(*_along(cells, "validation_loss"), **style(method))
            axes[1][column].plot(*_along(cells, "ood", 100), **style(method))
        axes[0][column].set_title(title(task))
        axes[1][column].set_xlabel("epoch")
        axes[1][column].set_ylim(0, 101)
    axes[0][0].set_ylabel("validation loss (nats)")
    axes[1][0].set_ylabel("OOD accuracy (%)")
    axes[0][0].legend(fontsize=8, frameon=False)
    return figure


def _along(cells: list[Record], name: str, times: float = 1.0) -> tuple[list[float], list[float]]:
    """Epochs, and what every look found, the mean over seeds. With patience seeds end at different looks;
    each is the mean of those that got there."""
    looks = [[h for h in look if h] for look in zip_longest(*(r["history"] for r in cells))]
    return [look[0]["epoch"] for look in looks], [times * fmean(h[name] for h in look) for look in looks]


def drawn_kinds(summary: dict[str, Any], records: list[Record]) -> Any:
    """Whether, and when, a model learns each kind of position, of the task that has far ones; None where
    none has."""
    settings = Settings(**summary["settings"])
    task = next((t for t in summary["tasks"] if "far" in _kinds_of(settings, t)), None)
    if task is None:
        return None
    found = _kinds_of(settings, task)
    figure, axes = new_figure(2, len(found))
    for row, (region, words) in enumerate({"in_distribution": "in distribution", "ood": "OOD"}.items()):
        for axis, kind in zip(axes[row], found, strict=True):
            for method in summary["methods"]:
                cells = list(cells_of(records, task, method).values())
                axis.plot(*_along(cells, f"{region}_{kind}", 100), **style(method))
            axis.axhline(100 / settings.modulus, color="0.7", linewidth=0.8)
            rule = summary["rules_alone"][task][str(windows(settings.task(task))[-1])][f"{region}_{kind}"]
            axis.axhline(100 * rule, color="0.7", linewidth=0.8, linestyle=":")
            axis.set_ylim(0, 101)
        axes[row][0].set_ylabel(f"accuracy {words} (%)")
    for column, kind in enumerate(found):
        axes[0][column].set_title(f"{title(task)}: {kind}")
        axes[1][column].set_xlabel("epoch")
    axes[0][-1].legend(fontsize=8, frameon=False)
    return figure


def _kinds_of(settings: Settings, task: str) -> list[str]:
    """The kinds of positions that a task has in distribution and beyond."""
    masks = regions(settings.task(task), settings.train_length, settings.test_length)
    return [k for k in KINDS if masks[f"in_distribution_{k}"].any() and masks[f"ood_{k}"].any()]


def _positions(summary: dict[str, Any], records: list[Record]) -> Any:
    """Accuracy at every position of the test sequences, last checkpoint, mean over seeds.

    The kinds of positions are drawn apart: on one line they would alternate.
    """
    tasks, settings = summary["tasks"], Settings(**summary["settings"])
    figure, axes = new_figure(len(tasks), 1)
    figure.set_size_inches(11, 2.7 * len(tasks))
    for row, task in enumerate(tasks):
        axis = axes[row][0]
        masks = regions(settings.task(task), settings.train_length, settings.test_length)
        kinds = [np.flatnonzero(masks[f"in_distribution_{kind}"] | masks[f"ood_{kind}"]) for kind in KINDS]
        for method in summary["methods"]:
            cells = list(cells_of(records, task, method).values())
            if not cells:
                continue
            mean = np.mean([np.array(_last(r)) for r in cells], axis=0)
            for positions, marker in zip(kinds, _MARKS, strict=True):
                look = style(method) | {"linewidth": 1.0, "marker": marker, "markersize": 3, "markevery": 8}
                if marker is not None:
                    del look["label"]  # once a method
                axis.plot(positions, mean[positions], **look)
        axis.axvline(settings.train_length - 0.5, color="0.4", linewidth=0.8, linestyle=":")
        axis.text(settings.train_length + 1, 12, "never trained →", fontsize=8, color="0.35")
        axis.axhline(100 / settings.modulus, color="0.7", linewidth=0.8)
        axis.set_ylim(0, 102)
        axis.set_title(title(task), fontsize=10)
        axis.set_ylabel("accuracy (%)")
    axes[-1][0].set_xlabel("position (plain lines: near; with crosses: chained; with dots: far)")
    named = [pair for row in axes for pair in zip(*row[0].get_legend_handles_labels(), strict=True)]
    once = {label: line for line, label in named}  # not every task has every method
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1.0)}
    axes[0][0].legend(once.values(), once.keys(), fontsize=8, frameon=False, ncols=len(once), **place)
    return figure


def _last(record: Record) -> list[float]:
    last = record["last"]
    return [100 * correct / last["rows"] for correct in last["correct_by_position"]]
