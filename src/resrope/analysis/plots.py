"""Figure 1 of the paper for any feature, and the feature gap over all of them."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resrope.analysis.features import FeatureTable
from resrope.files import atomic_write
from resrope.spec import Frequencies, RopeSpec, frequencies

_TRAINED, _NEW = "#31688e", "#d1495b"


def draw(spec: RopeSpec, table: FeatureTable, feature: int, path: Path) -> None:
    """Two panels of rotation angles (without, with Resonance) and one of gaps; format by suffix.

    Raises ValueError on a feature the table does not have, ImportError without matplotlib.
    """
    if not 0 <= feature < len(table.features):
        raise ValueError(f"feature must be in 0 … {len(table.features) - 1}, got {feature}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'resrope[plot]'") from error
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 1])
    for column, resonance in enumerate((False, True)):
        made = frequencies(replace(spec, resonance=resonance), seq_len=table.test_length)
        _angles(figure.add_subplot(grid[0, column]), made, feature, table, resonance)
    _gaps(figure.add_subplot(grid[1, :]), table)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix(".") or "png", dpi=140)
    atomic_write(path, picture.getvalue())


def _angles(axes: Any, made: Frequencies, feature: int, table: FeatureTable, resonance: bool) -> None:
    """Angle mod 2π at every position; lines at the angles that training met."""
    start, stop = _window(table, feature)
    positions = np.arange(start, stop)
    angles = (positions * made.inv_freq[feature] % math.tau) / math.pi
    if made.periods is not None:
        angles = 2 * (positions % made.periods[feature]) / made.periods[feature]
    trained = positions < table.train_length
    if start == 0:
        axes.hlines(angles[trained], start, stop, color=_TRAINED, alpha=0.15, linewidth=0.6)
    axes.plot(positions[trained], angles[trained], ".", color=_TRAINED, label="training", markersize=4)
    axes.plot(positions[~trained], angles[~trained], ".", color=_NEW, label="new positions", markersize=4)
    axes.axvline(table.train_length - 0.5, color="0.4", linewidth=0.8, linestyle="--")
    row = table.features[feature]
    gap = row.gap_after if resonance else row.gap_before
    name = f"Resonance, wavelength {row.resonant}" if resonance else f"wavelength {row.scaled:.2f}"
    axes.set_title(f"feature {feature}: {name} tokens, gap {gap:.3g}", fontsize=10)
    axes.set_xlabel("position m")
    axes.set_ylabel("angle mθ mod 2π (units of π)")
    axes.set_ylim(-0.05, 2.25)
    axes.legend(loc="upper right", ncols=2, fontsize=8, frameon=False)


def _gaps(axes: Any, table: FeatureTable) -> None:
    index = [f.index for f in table.features]
    axes.bar(index, [f.gap_before for f in table.features], color=_NEW, alpha=0.45, label="without Resonance")
    axes.bar(index, [f.gap_after for f in table.features], width=0.4, color=_TRAINED, label="with Resonance")
    critical = next((f.index for f in table.features if not f.pre_critical), len(index))
    axes.axvline(critical - 0.5, color="0.4", linewidth=0.8, linestyle="--")
    axes.text(critical - 0.4, 2.5, "post-critical →", fontsize=8, color="0.3")
    axes.set_xlabel("feature j")
    axes.set_ylabel("feature gap (Eq. 8), 0 … 2")
    axes.set_title(
        f"{table.method}: distance of new phases from trained ones, "
        f"{table.train_length} → {table.test_length} tokens",
        fontsize=10,
    )
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(0, 4)
    axes.legend(loc="upper left", fontsize=8, frameon=False)


def _window(table: FeatureTable, feature: int) -> tuple[int, int]:
    """The positions worth drawing: all while that is legible, else some turns around the training length."""
    if table.train_length <= 512:
        return 0, min(table.test_length, 3 * table.train_length)
    around = math.ceil(min(3 * table.features[feature].scaled, table.train_length / 2))
    return table.train_length - around, min(table.test_length, table.train_length + around)
