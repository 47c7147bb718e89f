"""The report's pictures: Figure 3 with the OOD accuracy beneath it, and accuracy by position."""

from __future__ import annotations

import io
from statistics import fmean
from typing import Any

import numpy as np

from resrope.posgen.evaluate import regions
from resrope.posgen.presets import Settings
from resrope.posgen.report import cells_of
from resrope.posgen.tables import title

Record = dict[str, Any]
_COLOURS = {"rope": "#d1495b", "yarn": "#31688e", "linear": "#edae49", "ntk": "#66a182"}
_COLOURS |= {"dynamic-ntk": "#8d6a9f", "llama3": "#7f7f7f"}


def draw_all(summary: dict[str, Any], records: list[Record]) -> dict[str, bytes]:
    """PNG files by name. Raises ImportError without matplotlib."""
    return {
        "training.png": _png(_training(summary, records)),
        "positions.png": _png(_positions(summary, records)),
    }


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'resrope[posgen]'") from error
    figure = Figure(figsize=(4.3 * columns, 3.1 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _style(method: str) -> dict[str, Any]:
    plain = method.removeprefix("resonance-")
    return {
        "color": _COLOURS[plain],
        "linestyle": "-" if method != plain else "--",
        "label": title(method),
        "linewidth": 1.6,
    }


def _training(summary: dict[str, Any], records: list[Record]) -> Any:
    """Validation loss (Figure 3) and OOD accuracy against epochs, mean over seeds."""
    tasks = summary["tasks"]
    figure, axes = _figure(2, len(tasks))
    for column, task in enumerate(tasks):
        for method in summary["methods"]:
            cells = list(cells_of(records, task, method).values())
            if not cells:
                continue
            epochs = [h["epoch"] for h in cells[0]["history"]]
            looks = list(zip(*(r["history"] for r in cells), strict=True))
            losses = [fmean(h["validation_loss"] for h in look) for look in looks]
            right = [100 * fmean(h["ood"] for h in look) for look in looks]
            axes[0][column].plot(epochs, losses, **_style(method))
            axes[1][column].plot(epochs, right, **_style(method))
        axes[0][column].set_title(title(task))
        axes[1][column].set_xlabel("epoch")
        axes[1][column].set_ylim(0, 101)
    axes[0][0].set_ylabel("validation loss (nats)")
    axes[1][0].set_ylabel("OOD accuracy (%)")
    axes[0][0].legend(fontsize=8, frameon=False)
    return figure


def _positions(summary: dict[str, Any], records: list[Record]) -> Any:
    """Accuracy at every position of the test sequences, last checkpoint, mean over seeds.

    Positions that need the far token are drawn apart, dotted: on one line the two kinds would alternate.
    """
    tasks, settings = summary["tasks"], Settings(**summary["settings"])
    figure, axes = _figure(len(tasks), 1)
    figure.set_size_inches(11, 2.7 * len(tasks))
    for row, task in enumerate(tasks):
        axis = axes[row][0]
        masks = regions(settings.task(task), settings.train_length, settings.test_length)
        local = np.flatnonzero(masks["in_distribution_shortcut"] | masks["ood_shortcut"])
        far = np.flatnonzero(masks["in_distribution_far"] | masks["ood_far"])
        for method in summary["methods"]:
            cells = list(cells_of(records, task, method).values())
            if not cells:
                continue
            mean = np.mean([np.array(_last(r)) for r in cells], axis=0)
            axis.plot(local, mean[local], **{**_style(method), "linewidth": 1.0})
            axis.plot(far, mean[far], ".", color=_style(method)["color"], markersize=3, alpha=0.5)
        axis.axvline(settings.train_length - 0.5, color="0.4", linewidth=0.8, linestyle=":")
        axis.text(settings.train_length + 1, 12, "never trained →", fontsize=8, color="0.35")
        axis.axhline(100 / settings.modulus, color="0.7", linewidth=0.8)
        axis.set_ylim(0, 102)
        axis.set_title(title(task), fontsize=10)
        axis.set_ylabel("accuracy (%)")
    axes[-1][0].set_xlabel("position (dots: positions that need the far token)")
    axes[0][0].legend(fontsize=8, frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1.0))
    return figure


def _last(record: Record) -> list[float]:
    last = record["last"]
    return [100 * correct / last["rows"] for correct in last["correct_by_position"]]
