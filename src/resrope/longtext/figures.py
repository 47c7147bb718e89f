"""A study's pictures: perplexity by length (Figure 4 of the paper), by position, and Resonance's effect."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resrope.longtext.curves import Tally, ratios
from resrope.longtext.study import Study
from resrope.pictures import figure, png, style

_FEW = 4
# Highest over lowest perplexity from which on the ticks between powers of ten have no room for numbers.
_DECADES = 30.0
CAPTIONS = {
    "lengths.png": "Perplexity of the first tokens of the texts (Figure 4 of the paper). The dotted line is "
    "the length that the model as it is serves.",
    "positions.png": "Perplexity of the tokens at a position alone, log scale: where a method breaks is "
    "plain here, and averaged away above.",
    "resonance.png": "Perplexity with Resonance over that without it, by position; below 1 it helps. Bands: "
    "95 % intervals, texts drawn again. What leaves the picture belongs to methods that are broken there.",
}


def draw(study: Study) -> dict[str, bytes]:
    """PNG files by name. Raises ImportError without matplotlib."""
    made = {"lengths.png": png(_lengths(study)), "positions.png": png(_positions(study))}
    return {**made, "resonance.png": png(_resonance(study))} if study.pairs() else made


def _lengths(study: Study) -> Any:
    made, axis = _axis(study, "tokens of the text (log)")
    for label, measured in study.methods.items():
        if len(study.methods) <= _FEW:  # more bands than that cover one another
            _band(axis, study.protocol.lengths, measured.by_length, label)
        axis.plot(
            study.protocol.lengths, measured.by_length.perplexity(), marker="o", markersize=3, **style(label)
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(study.protocol.lengths, [str(n) for n in study.protocol.lengths], rotation=30)
    axis.tick_params(axis="x", which="minor", bottom=False)
    return _finished(made, axis, "perplexity")


def _positions(study: Study) -> Any:
    made, axis = _axis(study, "position in the text (tokens)")
    edges = [b.start for b in study.protocol.blocks] + [study.protocol.longest]
    for label, measured in study.methods.items():
        heights = [math.nan if ppl is None else ppl for ppl in measured.by_block.perplexity()]
        axis.stairs(heights, edges, baseline=None, **style(label))
    return _finished(made, axis, "perplexity")


def _resonance(study: Study) -> Any:
    made, axis = _axis(study, "position in the text (tokens)", log=False)
    drawn: list[float] = []
    middles = [(b.start + b.end) / 2 for b in study.protocol.blocks]
    for label, (resonant, plain) in study.pairs().items():
        found = ratios(resonant.by_block, plain.by_block)
        there = [(x, r) for x, r in zip(middles, found, strict=True) if r is not None]
        line = style(f"resonance-{label}")
        axis.plot([x for x, _ in there], [r.ratio for _, r in there], **line)
        drawn += [r.ratio for _, r in there]
        bands = [(x, r.low, r.high) for x, r in there if r.low is not None]
        if bands:
            axis.fill_between(*zip(*bands, strict=True), color=line["color"], alpha=0.12, linewidth=0)
    axis.axhline(1.0, color="0.5", linewidth=0.8)
    axis.set_ylim(*_window(drawn))
    axis.set_ylabel("with / without Resonance")
    axis.legend(fontsize=8, frameon=False, ncols=2)
    return made


def _window(ratios: list[float]) -> tuple[float, float]:
    """Around 1 and four fifths of the ratios: those of a method that is broken would hide all others."""
    low, high = np.quantile([*ratios, 1.0], [0.1, 0.9])
    room = max(high - low, 0.002)
    return float(low - room), float(high + room)


def _axis(study: Study, label: str, *, log: bool = True) -> tuple[Any, Any]:
    made, axes = figure(1, 1, width=9, height=4.5)
    axis = axes[0][0]
    if study.native is not None and study.native < study.protocol.longest:
        axis.axvline(study.native, color="0.4", linewidth=0.8, linestyle=":")
    axis.set_xlabel(label)
    if log:
        axis.set_yscale("log")
    return made, axis


def _band(axis: Any, lengths: tuple[int, ...], tally: Tally, label: str) -> None:
    """The interval of every length that has one."""
    there = [(n, *i) for n, i in zip(lengths, tally.intervals(), strict=True) if i is not None]
    if there:
        axis.fill_between(*zip(*there, strict=True), color=style(label)["color"], alpha=0.07, linewidth=0)


def _finished(made: Any, axis: Any, label: str) -> Any:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_ylabel(f"{label} (log)")
    low, high = axis.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_formatter(plain if high < _DECADES * low else NullFormatter())
    axis.tick_params(which="minor", labelsize=7)
    axis.legend(fontsize=8, frameon=False, ncols=2)
    return made
