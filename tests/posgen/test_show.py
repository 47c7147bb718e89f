import re

import pytest

from resrope.posgen.show import draw, equation, example, render_text
from resrope.posgen.tasks import TASKS, Task

SEVEN = {name: Task(name=name, modulus=7) for name in TASKS}


def test_figure_2_in_text():
    text = render_text(example(SEVEN["semi-recursive"], 9, prefix=[1, 2, 3, 4]))
    assert text.splitlines() == [
        "semi-recursive: j = 1, k = 3, m = 7, h = sum",
        "",
        "position  0  1  2  3  4  5  6  7  8  9",
        "   token  1  2  3  4  3  4  6  1  0  3",
        "                │           │  │  │  ▲",
        "                ╰───────────┴──┴──┴──╯",
        "",
        "x_9 = (x_2 + x_6 + x_7 + x_8) mod 7 = (3 + 6 + 1 + 0) mod 7 = 3",
    ]


@pytest.mark.parametrize("name", TASKS)
def test_the_equation_is_true(name):
    shown = example(Task(name=name, j=2, k=2, modulus=11), 30, seed=4)
    terms, modulus, result = re.search(r"= \(([\d+ ]+)\) mod (\d+) = (\d+)$", equation(shown)).groups()
    assert sum(map(int, terms.split(" + "))) % int(modulus) == int(result) == shown.tokens[30]
    named = [int(position) for position in re.findall(r"x_(\d+)", equation(shown))]
    assert tuple(named) == (30, *SEVEN_SOURCES[name])


SEVEN_SOURCES = {
    "recursive": (26, 27, 28, 29),
    "cot": (0, 1, 28, 29),
    "semi-recursive": (13, 14, 28, 29),
}


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_long_sequences_are_wrapped_and_complete(width):
    shown = example(Task(name="cot"), 60)
    text = render_text(shown, width=width)
    body = text.splitlines()[1:-1]
    assert max(map(len, body)) <= width
    rows = {
        label: [int(n) for line in body if line.startswith(label) for n in line.split()[1:]]
        for label in ("position", "   token")
    }
    assert rows == {"position": list(range(61)), "   token": list(shown.tokens)}
    assert text.count("│") == 4
    assert (text.count("╰"), text.count("┴"), text.count("╯"), text.count("▲")) == (1, 3, 1, 1)


def test_markup_adds_colour_and_nothing_else():
    from rich.text import Text

    shown = example(SEVEN["cot"], 12, seed=1)
    coloured = render_text(shown, markup=True)
    assert coloured != render_text(shown)
    assert [line.rstrip() for line in Text.from_markup(coloured).plain.split("\n")] == (
        render_text(shown).split("\n")
    )


def test_own_function_is_named():
    def first(sources, modulus):
        return sources[0]

    shown = example(Task(name="cot", h=first), 5, prefix=[9, 2, 3, 4])
    assert equation(shown) == "x_5 = first(x_0, x_2, x_3, x_4) = first(9, 3, 4, 9) = 9"


def test_prefix_or_seed():
    assert example(SEVEN["cot"], 5, prefix=[1, 2, 3, 4]).tokens == (1, 2, 3, 4, 3, 4)
    assert example(SEVEN["cot"], 40, seed=1) == example(SEVEN["cot"], 40, seed=1)
    assert example(SEVEN["cot"], 40, seed=1) != example(SEVEN["cot"], 40, seed=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position": 3}, r"position must be >= j\+k = 4"),
        ({"position": 9, "prefix": [1, 2]}, "prefixes must have shape"),
        ({"position": 9, "prefix": [1, 2, 3, 7]}, "prefix tokens must lie in"),
        ({"position": 9, "seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_unfit_examples_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        example(SEVEN["cot"], **arguments)


def test_pictures(tmp_path):
    import numpy as np
    from matplotlib.image import imread

    def red(path):
        picture = np.asarray(imread(path))
        return np.abs(picture[..., :3] - np.array([0xD1, 0x24, 0x2F]) / 255).max(-1).__lt__(0.02)

    shown = [example(task, 12, prefix=[1, 2, 3, 4]) for task in SEVEN.values()]
    draw(shown, tmp_path / "three.png")
    draw(shown[:1], tmp_path / "one.png")
    three, one = red(tmp_path / "three.png"), red(tmp_path / "one.png")
    assert three.shape[0] > 2 * one.shape[0]
    # The generated token, and nothing left of it, is red: the last of 13 boxes.
    assert np.flatnonzero(three.any(0)).min() > three.shape[1] * 11 / 13
    assert one.sum() * 2.5 < three.sum() < one.sum() * 3.5


def test_vector_pictures_and_unknown_formats(tmp_path):
    shown = [example(SEVEN["cot"], 200)]
    draw(shown, tmp_path / "long.svg")
    assert b"<svg" in (tmp_path / "long.svg").read_bytes()
    with pytest.raises(ValueError, match="'xyz' is not supported"):
        draw(shown, tmp_path / "picture.xyz")
    with pytest.raises(ValueError, match="at least one example"):
        draw([], tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["long.svg"]
