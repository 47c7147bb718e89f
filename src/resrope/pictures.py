"""What every picture shares: matplotlib where it is installed, PNG bytes, one colour and dash per method."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

from resrope.files import atomic_write

# What stands before a method's name, and how its line is drawn.
_BEFORE = {
    "resonance-": "-",
    "distinct-": "-.",
    "prime-": ":",
    "coprime-": (0, (5, 1)),
    "listed-": (0, (1, 2)),
}
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
    "none": "NoPE",
    "learned": "Learned",
    "sinusoidal": "Sinusoidal",
    "alibi": "ALiBi",
    "t5": "T5 bias",
    "randomised-rope": "Randomised RoPE",
    "pose": "PoSE",
    "xpos": "xPos",
    "fire": "FIRE",
    "p-rope": "p-RoPE",
}
# Of methods that differ in their integers alone: how much of the colour is left, the rest black.
_DARKER = {"distinct-": 0.8, "prime-": 0.25, "coprime-": 0.6, "listed-": 0.4}
_COLOURS = {"own": "#111111", "rope": "#d1495b", "yarn": "#31688e", "linear": "#edae49", "ntk": "#66a182"}
_COLOURS |= {"none": "#b3b3b3", "learned": "#c49a6c", "sinusoidal": "#7b9e3f", "alibi": "#e07b39"}
_COLOURS |= {"t5": "#3a7d44", "randomised-rope": "#b56576", "pose": "#5f0f40", "xpos": "#0f7173"}
_COLOURS |= {"fire": "#e4572e", "p-rope": "#355070"}
_COLOURS |= {"dynamic-ntk": "#8d6a9f", "llama3": "#7f7f7f", "abf": "#a0522d", "longrope": "#17a2a2"}


def title(label: str) -> str:
    """A method's name as the papers write it, its parameters behind it; any other name as it is."""
    name, colon, parameters = label.partition(":")
    before, plain = _parted(name)
    words = before.removesuffix("-").capitalize() + " " * bool(before) + METHOD_TITLES.get(plain, plain)
    return f"{words} ({parameters})" if colon else words


def _parted(name: str) -> tuple[str, str]:
    """``resonance-yarn`` to ``resonance-`` and ``yarn``; other names have nothing before them."""
    before = next((prefix for prefix in _BEFORE if name.startswith(prefix)), "")
    return before, name.removeprefix(before)


def style(label: str) -> dict[str, Any]:
    """How a method's line is drawn: a colour per scaling, solid with Resonance, dashed without.

    Methods with parameters of their own, ``yarn:factor=8``, get a shade by their parameters.
    """
    name, _, parameters = label.partition(":")
    before, plain = _parted(name)
    shade = zlib.crc32(parameters.encode()) % 100 / 100 if parameters else 1.0
    return {
        "color": _darker(_COLOURS.get(plain, "#444444"), _DARKER.get(before, 1.0)),
        "linestyle": _BEFORE.get(before, "--"),
        "label": title(label),
        "linewidth": 1.6,
        "alpha": 0.35 + 0.65 * shade,
    }


def _darker(colour: str, left: float) -> str:
    return "#" + "".join(f"{round(left * int(colour[i : i + 2], 16)):02x}" for i in (1, 3, 5))


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


def save(made: Any, path: Path) -> None:
    """Write the figure; format by suffix."""
    buffer = io.BytesIO()
    made.savefig(buffer, format=path.suffix.removeprefix(".") or "png", dpi=130)
    atomic_write(path, buffer.getvalue())
