import itertools

import numpy as np
import pytest

from resrope.posgen.shortcut import shortcut, shortcut_accuracy
from resrope.posgen.tasks import TASKS, Task, generate

SETTINGS = [
    (name, j, k, m)
    for name in TASKS
    for j, k, m in [(1, 3, 2), (1, 3, 3), (1, 3, 5), (2, 2, 3), (3, 1, 3), (1, 1, 7), (2, 3, 2), (1, 2, 4)]
]  # fmt: skip
LENGTH = 21


def every_sequence(name, j, k, m):
    """All m^(j+k) sequences of a task, as int64."""
    task = Task(name=name, j=j, k=k, modulus=m)
    prefixes = np.array(list(itertools.product(range(m), repeat=j + k)))
    return task, generate(task, prefixes, LENGTH).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "position", "rule"),
    [
        ("recursive", 4, None),
        ("recursive", 5, {1: 2, 5: -1}),
        ("recursive", 40, {1: 2, 5: -1}),
        ("cot", 4, None),
        ("cot", 5, {1: 2, 4: -1}),
        ("cot", 200, {1: 2, 4: -1}),
        ("semi-recursive", 4, None),
        ("semi-recursive", 5, {1: 2, 4: -1}),
        ("semi-recursive", 6, None),
        ("semi-recursive", 7, {1: 2, 4: -1}),
    ],
)
def test_rules_at_the_papers_setting(name, position, rule):
    assert shortcut(Task(name=name), position) == rule


def test_a_coefficient_of_modulus_vanishes():
    assert shortcut(Task(name="cot", modulus=2), 9) == {4: -1}  # 2·x_{l−1} = 0 mod 2


@pytest.mark.parametrize(("name", "j", "k", "m"), SETTINGS)
def test_every_rule_holds_on_every_sequence(name, j, k, m):
    task, rows = every_sequence(name, j, k, m)
    rules = 0
    for position in range(j + k, LENGTH):
        rule = shortcut(task, position)
        if rule is not None:
            assert max(rule) <= j + k + 1
            predicted = sum(c * rows[:, position - distance] for distance, c in rule.items()) % m
            assert np.array_equal(predicted, rows[:, position])
            rules += 1
    assert rules >= (LENGTH - j - k) // 2


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("cot", 59 / 60 + 1 / (60 * 17)),
        ("recursive", 59 / 60 + 1 / (60 * 17)),
        ("semi-recursive", 1 / 2 + 1 / (2 * 17)),
    ],
)
def test_what_the_shortcut_alone_scores(name, accuracy):
    assert shortcut_accuracy(Task(name=name), 64) == pytest.approx(accuracy, rel=1e-12)
    assert f"{accuracy:.1%}" == ("52.9%" if name == "semi-recursive" else "98.4%")


def test_other_functions_and_empty_lengths_are_refused():
    other = Task(name="cot", h=lambda sources, modulus: sources[0])
    for refuse in (
        lambda: shortcut(other, 4),
        lambda: shortcut_accuracy(other, 10),
    ):
        with pytest.raises(ValueError, match="known for h = 'sum' only"):
            refuse()
    with pytest.raises(ValueError, match=r"length must be > j\+k = 4, got 4"):
        shortcut_accuracy(Task(name="cot"), 4)
