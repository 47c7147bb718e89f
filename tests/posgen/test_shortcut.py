import itertools

import numpy as np
import pytest

from resrope.posgen.shortcut import needs_far_token, shortcut, shortcut_accuracy
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


@pytest.mark.parametrize(("name", "j", "k", "m"), SETTINGS)
def test_flags_are_exactly_where_no_shared_local_function_works(name, j, k, m):
    """Brute force: one table from the last j+k tokens to x_l, filled from the unflagged positions.

    It must be free of contradictions there, and wrong for some sequence at every flagged position,
    unless the pointer steps onto a token that equals the one it leaves in every sequence there is
    (for m = 3, x_6 = x_3 + 3·(x_0 + x_1 + x_2 + x_3) = x_3, and so x_7 = 2·x_6 − x_3 = x_6).
    """
    task, rows = every_sequence(name, j, k, m)
    far = needs_far_token(task, LENGTH)
    table: dict[tuple[int, ...], int] = {}
    for position in np.flatnonzero(~far)[j + k :]:
        for *window, token in rows[:, position - j - k : position + 1].tolist():
            assert table.setdefault(tuple(window), token) == token
    for position in np.flatnonzero(far):
        seen = rows[:, position - j - k : position + 1].tolist()
        wrong = any(table.get(tuple(window), token) != token for *window, token in seen)
        left, entered = rows[:, task.sources(position)[0] - 1], rows[:, task.sources(position)[j - 1]]
        assert wrong or (position > j + k and np.array_equal(left, entered))


def test_no_such_accident_at_the_papers_setting():
    """The tokens are linear in the prefix, so the four unit prefixes decide."""
    rows = generate(Task(name="semi-recursive"), np.eye(4, dtype=int), 256)
    assert (rows[:, 1:126] != rows[:, :125]).any(0).all()


@pytest.mark.parametrize("m", [2, 3, 5])
def test_at_moved_pointers_the_longer_window_does_not_decide_either(m):
    """Equal last j+k+1 tokens, different x_l, among the positions flagged for semi-recursive."""
    task, rows = every_sequence("semi-recursive", 1, 3, m)
    seen: dict[tuple[int, ...], set[int]] = {}
    for position in np.flatnonzero(needs_far_token(task, LENGTH))[1:]:
        for *window, token in rows[:, position - 5 : position + 1].tolist():
            seen.setdefault(tuple(window), set()).add(token)
    assert max(map(len, seen.values())) > 1


def test_flags_at_the_papers_setting():
    flagged = {name: np.flatnonzero(needs_far_token(Task(name=name), 64)).tolist() for name in TASKS}
    assert flagged == {"recursive": [], "cot": [4], "semi-recursive": list(range(4, 64, 2))}


def test_flags_do_not_depend_on_the_length():
    for name, length in itertools.product(TASKS, range(30)):
        task = Task(name=name, j=2, k=3)
        assert np.array_equal(needs_far_token(task, length), needs_far_token(task, 40)[:length])


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
        lambda: needs_far_token(other, 10),
        lambda: shortcut_accuracy(other, 10),
    ):
        with pytest.raises(ValueError, match="known for h = 'sum' only"):
            refuse()
    with pytest.raises(ValueError, match=r"length must be > j\+k = 4, got 4"):
        shortcut_accuracy(Task(name="cot"), 4)
