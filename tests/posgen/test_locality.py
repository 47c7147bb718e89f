import itertools
from collections import Counter

import numpy as np
import pytest

from resrope.posgen.functions import FUNCTIONS
from resrope.posgen.locality import copied, kinds, local_accuracy, reach, solvable, windows
from resrope.posgen.tasks import TASKS, Task, generate

LENGTH = 21
SETTINGS = [(1, 3, 3), (2, 2, 3), (1, 2, 4), (1, 1, 7), (3, 1, 3)]


def every_sequence(task, length=LENGTH):
    """All m^(j+k) sequences of a task."""
    prefixes = np.array(list(itertools.product(range(task.modulus), repeat=task.prefix_length)))
    return generate(task, prefixes, length).astype(np.int64)


def test_what_h_can_be_solved_for():
    found = {h: sorted(solvable(Task(name="cot", h=h))) for h in FUNCTIONS}
    assert found == {
        "sum": [0, 1, 2, 3],
        "latin": [0, 1, 2, 3],
        "product": [2, 3],
        "lookup": [1],
        "bit": [1, 2],
    }
    assert solvable(Task(name="cot", h="product"), 0.9) == {0, 1, 2, 3}  # but for a factor 0
    assert solvable(Task(name="cot", h=lambda sources, m: sources[0] * 0)) == frozenset()
    assert solvable(Task(name="cot", modulus=2**32)) == {0, 1, 2, 3}


def test_reach_at_the_papers_setting():
    found = {name: reach(Task(name=name), 256) for name in TASKS}
    assert (found["recursive"][4:] == 4).all()
    assert (found["cot"][4:] == 4).all()
    semi = found["semi-recursive"]
    assert (semi[5::2] == 4).all()
    assert semi[4:13:2].tolist() == [4, 4, 6, 6, 8]  # at 8, 10 and 12 the pointer's own distance
    assert (semi[18::4] <= 10).all()
    assert (semi[32::4] > 16).all()
    assert all((found[name][:4] == 0).all() for name in TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_reach_asks_nothing_of_h_but_that_it_is_a_permutation(task):
    assert np.array_equal(reach(Task(name=task), 128), reach(Task(name=task, h="latin"), 128))


@pytest.mark.parametrize(("window", "without"), [(4, [0, 2, 4, 6]), (12, [0, 4]), (24, [4])])
def test_linear_algebra_finds_the_same_rules(window, without):
    """One set of coefficients for all positions that leave the same rest mod 8, solved for over GF(17).

    The tokens are linear in the prefix. For each rest: is there c with x_l = Σ c_d·x_{l−d} at every l of it?
    """
    task, length = Task(name="semi-recursive"), 512
    forms = generate(task, np.eye(4, dtype=int), length).astype(np.int64).T  # [length, prefix]
    unsolved = []
    for rest in range(8):
        at = [p for p in range(64, length) if p % 8 == rest]
        rows = np.concatenate([forms[[p - d for d in range(1, window + 1)]].T for p in at])
        if not solvable_mod(rows, np.concatenate([forms[p] for p in at]), 17):
            unsolved.append(rest)
    assert unsolved == without
    far = np.flatnonzero(reach(task, 256)[128:] > window)
    assert sorted(set(far % 8)) == without


def solvable_mod(rows, wanted, p):
    """Whether rows · c = wanted has a solution mod p, by elimination."""
    m, r = np.concatenate([rows, wanted[:, None]], 1) % p, 0
    for column in range(rows.shape[1]):
        pivots = np.flatnonzero(m[r:, column])
        if len(pivots):
            m[[r, r + pivots[0]]] = m[[r + pivots[0], r]]
            m[r] = m[r] * pow(int(m[r, column]), -1, p) % p
            others = m[:, column].copy()
            others[r] = 0
            m = (m - np.outer(others, m[r])) % p
            r += 1
    return not m[r:, -1].any()


@pytest.mark.parametrize(("task", "h", "setting"), list(itertools.product(TASKS, ("sum", "latin"), SETTINGS)))
def test_one_table_of_the_last_tokens_gives_what_is_said_to_be_near(task, h, setting):
    """Brute force over all sequences: positions of reach <= j+k share one function of the last j+k tokens,
    but for the first few, which are near their own beginning."""
    j, k, m = setting
    made = Task(name=task, j=j, k=k, modulus=m, h=h, h_seed=1)
    rows, table = every_sequence(made), {}
    near = np.flatnonzero(reach(made, LENGTH) <= j + k)
    assert len(near[near >= 13]) >= 4
    for position in near[near >= 13]:
        for *window, token in rows[:, position - j - k : position + 1].tolist():
            assert table.setdefault(tuple(window), token) == token


@pytest.mark.parametrize("h", ["sum", "latin"])
def test_no_table_gives_the_others(h):
    """Equal last five tokens, different x_l, among the positions that are not near."""
    task = Task(name="semi-recursive", modulus=5, h=h)
    rows, seen = every_sequence(task), {}
    for position in np.flatnonzero(~kinds(task, LENGTH)["near"])[4:]:
        for *window, token in rows[:, position - 5 : position + 1].tolist():
            seen.setdefault(tuple(window), set()).add(token)
    assert max(map(len, seen.values())) > 1


def test_guesses_are_those_of_a_plain_loop():
    """CoT with a table: x_0 is tried, value by value, against the equations inside the window."""
    task, window, position = Task(name="cot", modulus=5, k=2, h="lookup"), 4, 20
    from resrope.posgen.functions import function

    h = function("lookup", modulus=5, j=1, k=2)
    rows = generate(task, np.random.default_rng(0).integers(0, 5, (400, 3)), 30).tolist()

    def token(front, row, at):
        return int(h([np.array([front]), *(np.array([row[i]]) for i in (at - 2, at - 1))], 5)[0])

    right = 0.0
    for row in rows:
        inside = range(position - window + 2, position)
        agree = [a for a in range(5) if all(token(a, row, i) == row[i] for i in inside)]
        votes = Counter(token(a, row, position) for a in agree)
        right += max(votes.values()) / len(agree)
    assert local_accuracy(task, 30, window)[position] == pytest.approx(right / 400)


def by_hand(table, row, position, window):
    """x_position by the likeliest front token x_p: from what the last tokens say of x_{p−4} … x_p, and x_p's
    own equation of them; plain loops over a table of four arguments."""
    p, start = (position - 4) // 2, position - window

    def candidates(token):
        inside = [at for at in (2 * token + 4, 2 * token + 5) if start + 3 <= at < position]
        fits = (all(table[v][tuple(row[at - 3 : at])] == row[at] for at in inside) for v in range(17))
        return [v for v, fit in enumerate(fits) if fit]

    likely = Counter()
    for older in itertools.product(*(candidates(token) for token in range(p - 4, p))):
        for front in range(17):
            shared = (p - 5) // 2 == (p - 4) // 2  # the token before was made with the same front token
            if not shared or table[front][older[:3]] == older[3]:
                likely[table[front][older[1:]]] += 1
    votes = Counter()
    for v in candidates(p):
        votes[table[v][tuple(row[position - 3 : position])]] += likely[v]
    return max(votes, key=votes.get)


@pytest.mark.parametrize("position", [101, 102, 103])
def test_the_front_tokens_own_equation_is_used(position):
    """A table's sequences betray more than two equations on the same front token do."""
    from resrope.posgen.functions import function

    task = Task(name="semi-recursive", h="lookup")
    table = function("lookup", modulus=17, j=1, k=3)([*np.indices((17,) * 4)], 17)
    rows = generate(task, np.random.default_rng(3).integers(0, 17, (400, 4)), 104).tolist()
    right = np.mean([by_hand(table, row, position, 16) == row[position] for row in rows])
    assert local_accuracy(task, 104, 16)[position] == pytest.approx(right, abs=0.08)
    assert right - local_accuracy(task, 104, 8)[position] > 0.1


def test_more_tokens_give_more():
    for h in FUNCTIONS:
        task = Task(name="semi-recursive", h=h)
        means = [local_accuracy(task, 128, w)[64:].mean() for w in (4, 8, 16, 128)]
        assert means == sorted(means)
        assert means[-1] == 1.0


def test_kinds_partition_the_generated_positions():
    for task, h in itertools.product(TASKS, FUNCTIONS):
        found = kinds(Task(name=task, h=h), 64)
        assert np.array_equal(sum(mask.astype(int) for mask in found.values()), [0] * 4 + [1] * 60)
    assert windows(Task(name="cot")) == (5, 16)


def far(task):
    return kinds(task, 256)["far"]


def test_far_positions():
    """A front token that stays the same is betrayed by the tokens that were made with it, whatever h is."""
    for h in FUNCTIONS:
        assert not far(Task(name="cot", h=h))[64:].any()
    assert np.flatnonzero(far(Task(name="semi-recursive"))).tolist() == list(range(32, 256, 4))
    assert far(Task(name="semi-recursive", h="bit"))[64:].all()
    lookup = far(Task(name="semi-recursive", h="lookup"))[64:]
    assert lookup.tolist() == [True, True, True, False] * 48


def test_the_papers_cot_repeats_itself_after_96_tokens():
    task = Task(name="cot")
    rows = generate(task, np.random.default_rng(5).integers(0, 17, (500, 4)), 400)
    assert np.array_equal(rows[:, 3:304], rows[:, 99:400])
    found = copied(task, 256)
    assert (found[100:] == 1.0).all()
    assert found[:100].max() < 0.2
    assert copied(Task(name="cot", modulus=19), 256).max() < 0.05
