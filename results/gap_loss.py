"""Does the feature gap predict the loss? `python results/gap_loss.py results/figure-4-math/report.json`

Reads studies of `resrope perplexity` and writes gap-loss.png, .md and .json into this folder: for every
method and every length beyond training, three predictions from its table alone, and the measured rise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resrope.analysis.gap import embedded_vector_distance, feature_gap
from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.longtext.candidates import candidates, placed, tables_at
from resrope.models.source import read_config
from resrope.page import Grid, markdown_table
from resrope.pictures import figure, png, style, title
from resrope.spec import Frequencies
from resrope.spec.methods import RESONANCE

HERE = Path(__file__).parent
PREDICTIONS = {
    "gap": "mean feature gap of the method's own table (Eq. 8)",
    "distance": "mean distance from the trained table (Eq. 9)",
    "far": "largest distance from the trained table of any feature (Eq. 9)",
}
MARKERS = "os^v"
Point = Mapping[str, Any]


def main(reports: list[Path], out: Path = HERE) -> None:
    """Put predictions beside measurements, over all studies."""
    points = [point for report in reports for point in study_points(report)]
    told = {"ranks": ranks(points), "pairs": pairs(points), "points": points}
    data = json.dumps(told, indent=1, allow_nan=False) + "\n"
    for kind, content in {"json": data, "md": _markdown(told), "png": _picture(points)}.items():
        atomic_write(out / f"gap-loss.{kind}", content)


def study_points(report: Path) -> list[dict[str, Any]]:
    """Every method at every length beyond training that a text reaches.

    Raises ValueError where the report lacks what that takes: plain RoPE, the trained length, no windows,
    tables that its labels alone decide.
    """
    study = json.loads(report.read_text("utf-8"))
    if not isinstance(study, dict) or not {"model", "methods", "texts_by_length"} <= study.keys():
        raise ValueError(f"{report} must be the report.json of a study (resrope perplexity)")
    rope, native = read_config(study["model"]), study["native_length"]
    reached = [n for n in study["lengths"] if n > native and study["texts_by_length"][str(n)]]
    if study["window"] or "rope" not in study["methods"] or native not in study["lengths"] or not reached:
        raise ValueError(f"{report}: needs method rope, lengths up to {native} and beyond, and no windows")
    trained = _table(placed(candidates([])[0], rope, native), native)
    points = []
    for label, found in study["methods"].items():
        done = placed(candidates([label])[0], rope, study["target_length"])
        if done.length != found["made_for"]:
            raise ValueError(f"{report}: {label} was made with parameters that its name does not tell")
        for length in reached:
            table = _table(done, length)
            apart = embedded_vector_distance(trained, table, native, length)
            rises = list(_rises(found["by_text"], study["methods"]["rope"]["by_text"], length, native))
            points.append(
                {
                    "corpus": report.parent.name.rpartition("-")[2],
                    "texts": len(rises),
                    "method": label,
                    "length": length,
                    "gap": feature_gap(table, native, length).mean,
                    "distance": apart.mean,
                    "far": apart.max,
                    "rise": fmean(rises),
                }
            )
    return points


def _table(done: Any, length: int) -> Frequencies:
    return next(iter(tables_at(done, length).values()))


def _rises(by_text: Mapping[str, Any], rope: Mapping[str, Any], length: int, native: int) -> Iterable[float]:
    """Of every text that reaches the length."""
    for name, curve in by_text.items():
        if curve[str(length)] is not None:
            yield math.log(curve[str(length)] / rope[name][str(native)])


def ranks(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Spearman's ρ over the methods, for each corpus and length: pooled, length alone would make one."""
    made = []
    for corpus, length in dict.fromkeys((p["corpus"], p["length"]) for p in points):
        own = [p for p in points if (p["corpus"], p["length"]) == (corpus, length)]
        found = {
            name: rank_correlation([p[name] for p in own], [p["rise"] for p in own]) for name in PREDICTIONS
        }
        made.append(
            {"corpus": corpus, "length": length, "texts": own[0]["texts"], "methods": len(own), **found}
        )
    return made


def pairs(points: Sequence[Point]) -> list[dict[str, Any]]:
    """With Resonance minus without: how the gap changes, and how the rise does."""
    plain = {(p["corpus"], p["length"], p["method"]): p for p in points}
    made = []
    for p in points:
        other = plain.get((p["corpus"], p["length"], p["method"].removeprefix(RESONANCE)))
        if p["method"].startswith(RESONANCE) and other is not None:
            where = {"corpus": p["corpus"], "length": p["length"], "method": other["method"]}
            made.append({**where, "gap": p["gap"] - other["gap"], "rise": p["rise"] - other["rise"]})
    return made


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's ρ; None where either side does not vary."""
    a, b = _ranked(one), _ranked(other)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else None


def _ranked(values: Sequence[float]) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _markdown(told: Mapping[str, Any]) -> str:
    rank_rows = [
        [
            r["corpus"],
            *(str(r[k]) for k in ("length", "texts", "methods")),
            *(_rho(r[k]) for k in PREDICTIONS),
        ]
        for r in told["ranks"]
    ]
    means = [[r[name] for r in told["ranks"] if r[name] is not None] for name in PREDICTIONS]
    rank_rows.append(["mean", "", "", "", *(_rho(fmean(found) if found else None) for found in means)])
    point_rows = [
        [p["corpus"], title(p["method"]), str(p["length"]), *(f"{p[k]:.4f}" for k in (*PREDICTIONS, "rise"))]
        for p in told["points"]
    ]
    agree = sum((p["gap"] < 0) == (p["rise"] < 0) for p in told["pairs"])
    smaller = sum(p["gap"] < 0 for p in told["pairs"])
    better = sum(p["rise"] < 0 for p in told["pairs"])
    meant = "\n".join(f"- {name}: {text}" for name, text in PREDICTIONS.items())
    columns = ["corpus", "length", "texts", "methods", *PREDICTIONS]
    return f"""# Predicted gap against measured loss

Rise: log of the perplexity of a text's first tokens over that of plain RoPE at the trained length of the same
text, mean over the texts that reach the length; it holds the trained positions too, and what makes the text
itself easier or harder. Predictions, from the table alone:

{meant}

## Does a method with a smaller gap rise less? Spearman's ρ over the methods

Of each corpus and length apart: gap and loss both grow with the length, which alone would make a correlation.
Of ten methods a ρ below 0.65 lies within chance (5 %), and these are fewer than ten: with and without
Resonance a method has nearly the same prediction.

{markdown_table(Grid("", columns, rank_rows))}

## Does Resonance's smaller gap go with a smaller loss?

Of {len(told["pairs"])} pairs (method, length, corpus) Resonance makes the mean gap smaller in {smaller} and
the loss in {better}; both change to the same side in {agree}.

![Predicted gap above, measured rise below, for every method](gap-loss.png)

## All points

{markdown_table(Grid("", ["corpus", "method", "length", *PREDICTIONS, "rise (nats)"], point_rows))}
"""


def _rho(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _picture(points: Sequence[Point]) -> bytes:
    """A column per scaling; the gap above, the rise below, against the length."""
    scalings = list(dict.fromkeys(p["method"].removeprefix(RESONANCE) for p in points))
    corpora = list(dict.fromkeys(p["corpus"] for p in points))
    made, axes = figure(2, len(scalings), width=2.7, height=2.6)
    for column, scaling in zip(axes.T, scalings, strict=True):
        column[0].set_title(title(scaling), fontsize=10)
        for method in (scaling, RESONANCE + scaling):
            for marker, corpus in zip(MARKERS, corpora, strict=False):
                own = [p for p in points if (p["method"], p["corpus"]) == (method, corpus)]
                look = {**style(method), "marker": marker, "markersize": 4}
                look["label"] = f"{'with' if method != scaling else 'without'}, {corpus}"
                if method == scaling:
                    look["markerfacecolor"] = "white"
                for axis, name in zip(column, ("gap", "rise"), strict=True):
                    axis.plot([p["length"] for p in own], [p[name] for p in own], **look)
        column[1].set_xlabel("tokens", fontsize=9)
    for row, label in zip(axes, ("mean feature gap (Eq. 8)", "rise of log perplexity (nats)"), strict=True):
        row[0].set_ylabel(label, fontsize=9)
        ends = [axis.get_ylim() for axis in row]
        for axis in row:
            axis.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
            axis.set_xticks(sorted({p["length"] for p in points}))
            axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=6, frameon=False, title="Resonance", title_fontsize=7)
    return png(made)


if __name__ == "__main__":
    script(main)
