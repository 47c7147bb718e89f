"""What every picture shares: matplotlib where it is installed, PNG bytes, one colour and dash per method."""

from __future__ import annotations

import io
from typing import Any

_RESONANCE = "resonance-"
METHOD_TITLES = {
    "rope": "RoPE",
    "linear": "Linear (PI)",
    "abf": "ABF",
    "ntk": "NTK-aware",
    "dynamic-ntk": "Dynamic NTK",
    "yarn": "YaRN",
    "llama3": "Llama 3",
    "longrope": "LongRoPE",
    "proportional": "Proportional",
}
_COLOURS = {"rope": "#d1495b", "yarn": "#31688e", "linear": "#edae49", "ntk": "#66a182"}
_COLOURS |= {"dynamic-ntk": "#8d6a9f", "llama3": "#7f7f7f", "abf": "#a0522d", "longrope": "#17a2a2"}


def title(name: str) -> str:
    """A method's name as the papers write it; any other name as it is."""
    plain = name.removeprefix(_RESONANCE)
    return ("Resonance " if plain != name else "") + METHOD_TITLES.get(plain, plain)


def style(name: str) -> dict[str, Any]:
    """How a method's line is drawn: a colour per scaling, solid with Resonance, dashed without."""
    plain = name.removeprefix(_RESONANCE)
    return {
        "color": _COLOURS.get(plain, "#444444"),
        "linestyle": "-" if name != plain else "--",
        "label": title(name),
        "linewidth": 1.6,
    }


def figure(rows: int, columns: int, *, width: float = 4.3, height: float = 3.1) -> tuple[Any, Any]:
    """A matplotlib figure and its axes [rows, columns]; width and height of one axis in inches.

    Raises ImportError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'resrope[plot]'") from error
    made = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False)


def png(made: Any) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
