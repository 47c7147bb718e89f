"""Does the feature gap predict the loss? `python results/gap_loss.py results/figure-4-math/report.json`

Reads studies of `resrope perplexity` and writes gap-loss.png, .md and .json into this folder: for every
method and every length beyond training, three predictions from its table alone, and the measured rise.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resrope.analysis.gap import embedded_vector_distance, feature_gap
from resrope.longtext.candidates import candidates, placed, tables_at
from resrope.models.source import read_config
from resrope.page import Grid, markdown_table
from resrope.pictures import figure, png, style, title

HERE = Path(__file__).parent
PREDICTIONS = {
    "gap": "mean feature gap of the method's own table (Eq. 8)",
    "distance": "mean distance from the trained table (Eq. 9)",
    "far": "largest distance from the trained table of any feature (Eq. 9)",
}


def main(reports: Sequence[Path]) -> None:
    """Put predictions beside measurements, over all studies."""
    points = [point for report in reports for point in _points(report)]
    ranks = {name: _rank_correlation(points, name) for name in PREDICTIONS}
    (HERE / "gap-loss.json").write_text(
        json.dumps({"spearman": ranks, "points": points}, indent=1) + "\n", "utf-8"
    )
    (HERE / "gap-loss.md").write_text(_markdown(points, ranks), "utf-8")
    (HERE / "gap-loss.png").write_bytes(_picture(points, ranks))


def _points(report: Path) -> list[dict[str, Any]]:
    study = json.loads(report.read_text("utf-8"))
    rope, native = read_config(study["model"]), study["native_length"]
    trained = next(iter(tables_at(placed(candidates([])[0], rope, native), native).values()))
    points = []
    for label, found in study["methods"].items():
        done = placed(candidates([label])[0], rope, study["target_length"])
        for length in (n for n in study["lengths"] if n > native):
            table = next(iter(tables_at(done, length).values()))
            apart = embedded_vector_distance(trained, table, native, length)
            points.append(
                {
                    "texts": report.parent.name.rpartition("-")[2],
                    "method": label,
                    "length": length,
                    "gap": feature_gap(table, native, length).mean,
                    "distance": apart.mean,
                    "far": apart.max,
                    "rise": _rise(found["by_text"], study["methods"]["rope"]["by_text"], length, native),
                }
            )
    return points


def _rise(by_text: dict[str, Any], rope: dict[str, Any], length: int, native: int) -> float:
    logs = [
        math.log(curve[str(length)] / rope[name][str(native)])
        for name, curve in by_text.items()
        if curve[str(length)] is not None
    ]
    return fmean(logs)


def _rank_correlation(points: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.corrcoef(_ranks([p[name] for p in points]), _ranks([p["rise"] for p in points]))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _markdown(points: Sequence[dict[str, Any]], ranks: dict[str, float]) -> str:
    rows = [
        [
            p["texts"],
            title(p["method"]),
            str(p["length"]),
            *(f"{p[name]:.4f}" for name in (*PREDICTIONS, "rise")),
        ]
        for p in points
    ]
    grid = Grid("", ["texts", "method", "length", "gap", "distance", "far", "rise (nats)"], rows)
    told = "\n".join(
        f"- {text} ({name}): Spearman's ρ {ranks[name]:.2f}" for name, text in PREDICTIONS.items()
    )
    return (
        "# Predicted gap against measured loss\n\nRise: log of the perplexity of a text's first tokens over "
        f"that of plain RoPE at the trained length of the same text, mean over texts.\n\n{told}\n\n"
        f"![Prediction and measurement](gap-loss.png)\n\n{markdown_table(grid)}\n"
    )


def _picture(points: Sequence[dict[str, Any]], ranks: dict[str, float]) -> bytes:
    made, axes = figure(1, len(PREDICTIONS), width=4.6, height=4)
    for axis, (name, text) in zip(axes[0], PREDICTIONS.items(), strict=True):
        for label in dict.fromkeys(p["method"] for p in points):
            own = [p for p in points if p["method"] == label]
            look = style(label)
            filled = look["color"] if look["linestyle"] == "-" else "none"
            axis.scatter(
                [p[name] for p in own],
                [p["rise"] for p in own],
                edgecolors=look["color"],
                facecolors=filled,
                label=look["label"],
                s=22,
            )
        axis.set_xlabel(text, fontsize=8)
        axis.set_title(f"Spearman's ρ {ranks[name]:.2f}", fontsize=9)
    axes[0][0].set_ylabel("rise of log perplexity (nats)")
    axes[0][-1].legend(fontsize=7, frameon=False)
    return png(made)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
