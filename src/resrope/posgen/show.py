"""Figure 2 of arXiv 2403.00071 for any setting: one generated token and the tokens it depends on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resrope.files import atomic_write
from resrope.posgen.functions import DRAWN
from resrope.posgen.tasks import Task, generate
from resrope.spec import check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = ("position", "   token", "        ", "        ")
_COLOURS = {"source": "bold blue", "target": "bold red", "other": "dim"}

_INK, _MUTED, _PALE = "#24292f", "#8c959f", "#d8dee4"
_BLUE, _LIGHT_BLUE, _RED = "#2f6db5", "#dbe9f8", "#d1242f"
_BOX = 0.84  # a box's width, where the next token begins at 1
_UNIT, _SMALLEST_UNIT = 0.42, 0.2  # inches per token, and how far a long sequence may shrink it
_PAGE = 16.0  # inches; the width beyond which tokens shrink
_LETTER = 0.075  # inches per letter of the heading and the equation
_BEND = 3.0  # the widest bend of an arc, in tokens; a longer arc runs straight between its bends


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A sequence up to and including x_position, and the positions that x_position depends on."""

    task: Task
    tokens: tuple[int, ...]
    position: int
    sources: tuple[int, ...]

    def role(self, at: int) -> str:
        """What the token at a position is to the generated one: "target", "source" or "other"."""
        return "target" if at == self.position else "source" if at in self.sources else "other"


def example(task: Task, position: int, *, prefix: Sequence[int] | None = None, seed: int = 0) -> Example:
    """Generate a sequence up to `position` and note its last token's sources.

    prefix: the first j+k tokens; drawn at random by `seed` if None.
    Raises ValueError for a position inside the prefix, an unfit prefix and a negative seed.
    """
    check.integer("position", position, 0, "of the token to explain", 10_000)
    sources = task.sources(position)
    if prefix is None:
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        raw = np.random.PCG64(seed).random_raw(task.prefix_length)
        prefix = (raw % np.uint64(task.modulus)).tolist()
    tokens = generate(task, [prefix], position + 1)[0].tolist()
    return Example(task=task, tokens=tuple(tokens), position=position, sources=sources)


def title(task: Task) -> str:
    """The setting in one line: `cot: j = 1, k = 3, m = 7, h = sum`."""
    seed = f", h_seed = {task.h_seed}" if task.h in DRAWN else ""
    return f"{task.name}: j = {task.j}, k = {task.k}, m = {task.modulus}, h = {_h_name(task)}{seed}"


def equation(example: Example) -> str:
    """The token's equation: `x_12 = (x_0 + x_9 + x_10 + x_11) mod 7 = (1 + 3 + 4 + 2) mod 7 = 3`."""
    names = _applied(example.task, [f"x_{source}" for source in example.sources])
    values = _applied(example.task, [str(example.tokens[source]) for source in example.sources])
    return f"x_{example.position} = {names} = {values} = {example.tokens[example.position]}"


def render_text(example: Example, *, width: int = 80, markup: bool = False) -> str:
    """The sequence in plain Unicode, its sources bracketed to the generated token, and the equation.

    width: columns of the terminal; a longer sequence continues below. markup: add rich's colour
    tags, which tell nothing that the plain lines do not.
    """
    cell = 2 + max(len(str(example.position)), len(str(max(example.tokens))))
    per_line = max(1, (width - len(_LABELS[0])) // cell)
    lines = [title(example.task), ""]
    for start in range(0, len(example.tokens), per_line):
        columns = range(start, min(start + per_line, len(example.tokens)))
        cells = [_column(example, at, cell, markup) for at in columns]
        rows = [label + "".join(column[i] for column in cells) for i, label in enumerate(_LABELS)]
        lines += [row.rstrip() for row in rows if row.strip()] + [""]
    return "\n".join([*lines, equation(example)])


def _column(example: Example, at: int, cell: int, markup: bool) -> tuple[str, str, str, str]:
    """Position, token, mark and bracket of one column, each `cell` wide and aligned right."""
    role = example.role(at)
    mark = {"source": "│", "target": "▲", "other": ""}[role]
    if at <= min(example.sources):
        bracket = "╰" if role == "source" else ""
    else:
        bracket = {"source": "┴", "target": "╯", "other": "─"}[role].rjust(cell, "─")
    token = str(example.tokens[at]).rjust(cell)
    if markup:
        token = f"[{_COLOURS[role]}]{token}[/]"
    return str(at).rjust(cell), token, mark.rjust(cell), bracket.rjust(cell)


def draw(examples: Sequence[Example], path: Path) -> None:
    """Draw the examples as rows of one picture (PNG, SVG, PDF, by the file's suffix).

    The generated token is outlined in red, its sources are filled, arcs lead from them to it.
    Raises ValueError without examples and for a suffix matplotlib cannot write; needs matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'resrope[plot]'") from error
    if not examples:
        raise ValueError("examples must hold at least one example to draw, got none")
    heights = [3.4 + max(_arc_height(item, source) for source in item.sources) for item in examples]
    tokens = max(len(item.tokens) for item in examples)
    unit = max(min(_UNIT, _PAGE / tokens), _SMALLEST_UNIT)
    # A short sequence still leaves room for its heading and equation.
    letters = max(len(text) for item in examples for text in (equation(item), title(item.task)))
    width = max(tokens + 0.4, (letters * _LETTER + 0.3) / unit)
    figure = Figure(figsize=(width * unit, sum(heights) * unit), dpi=200)
    rows = figure.subplots(
        len(examples), 1, squeeze=False, gridspec_kw={"height_ratios": heights, "hspace": 0}
    )
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    for axes, item, height in zip(rows[:, 0], examples, heights, strict=True):
        axes.set(xlim=(-0.7, width - 0.7), ylim=(-1.9, height - 1.9), aspect="equal")
        axes.axis("off")
        _draw_row(axes, item, height, unit / _UNIT)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:] or "png")
    atomic_write(path, picture.getvalue())


def _arc_height(example: Example, source: int) -> float:
    """How far an arc rises above the boxes, in tokens: longer ones higher, none without end."""
    return min(0.62 * float(np.sqrt(example.position - source)), 3.0)


def _draw_row(axes: Axes, example: Example, height: float, scale: float) -> None:
    """One example: heading, boxes with their positions below, arcs, equation."""
    from matplotlib.patches import FancyBboxPatch

    faces = {"source": _LIGHT_BLUE, "target": "white", "other": "white"}
    edges = {"source": _BLUE, "target": _RED, "other": _PALE}
    inks = {"source": _INK, "target": _RED, "other": _MUTED}
    left = -_BOX / 2
    axes.text(left, height - 2.5, title(example.task), color=_INK, size=9, weight="bold", va="center")
    for at, token in enumerate(example.tokens):
        role = example.role(at)
        box = FancyBboxPatch(
            (at + left, left), _BOX, _BOX, boxstyle="round,pad=0,rounding_size=0.14",
            facecolor=faces[role], edgecolor=edges[role], linewidth=scale * (2 if role == "target" else 1),
        )  # fmt: skip
        axes.add_patch(box)
        weight = "normal" if role == "other" else "bold"
        font = {"ha": "center", "va": "center"}
        axes.text(at, 0, str(token), font, size=10 * scale, color=inks[role], weight=weight)
        axes.text(at, -0.72, str(at), font, size=6 * scale, color=inks[role])
    _draw_arcs(axes, example, scale)
    axes.text(left, -1.4, equation(example), color=_INK, size=7.5, va="center")


def _draw_arcs(axes: Axes, example: Example, scale: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    # The longest arc lands furthest right, so that the arcs nest and never cross.
    landings = example.position + np.linspace(0.24, -0.24, len(example.sources))
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3]
    for source, landing in zip(example.sources, landings, strict=True):
        curve = Curve(_arc(source, float(landing), _arc_height(example, source)), codes)
        arrow = FancyArrowPatch(
            path=curve,
            arrowstyle="-|>",
            mutation_scale=6 * scale,
            color=_BLUE,
            linewidth=1.1 * scale,
        )
        axes.add_patch(arrow)


def _arc(start: float, end: float, rise: float) -> list[tuple[float, float]]:
    """A quarter ellipse up, a straight line, a quarter ellipse down: points of two cubic curves."""
    base, bend = _BOX / 2 + 0.06, min((end - start) / 2, _BEND)
    top, near = base + rise, 0.4477  # 1 − 4(√2 − 1)/3 makes a cubic curve a quarter ellipse
    up = [(0.0, base), (0.0, top - near * rise), (near * bend, top), (bend, top)]
    return [(start + x, y) for x, y in up] + [(end - x, y) for x, y in reversed(up)]


def _applied(task: Task, terms: Sequence[str]) -> str:
    """The task's h written over its terms."""
    if task.h == "sum":
        return f"({' + '.join(terms)}) mod {task.modulus}"
    return f"{_h_name(task)}({', '.join(terms)})"


def _h_name(task: Task) -> str:
    return task.h if isinstance(task.h, str) else getattr(task.h, "__name__", "h")
