import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resrope.posgen.functions import FUNCTIONS, function, latin_square
from resrope.posgen.tasks import TASKS, Task, generate, generate_loop


def everything(name, m, j, k, seed=0):
    """h of all m^(j+k) arguments, as an array with one axis per argument."""
    h = function(name, modulus=m, j=j, k=k, seed=seed)
    lines = np.indices((m,) * (j + k)).reshape(j + k, -1).astype(np.uint8)
    return h(list(lines), m).reshape((m,) * (j + k)).astype(int)


@given(m=st.integers(1, 9), seed=st.integers(0, 50))
def test_a_latin_square_has_every_number_once_in_a_row_and_column(m, seed):
    square = latin_square(m, seed)
    assert np.array_equal(np.sort(square, 0), np.arange(m)[:, None].repeat(m, 1))
    assert np.array_equal(np.sort(square, 1), np.arange(m)[None].repeat(m, 0))


def test_all_squares_of_three_are_about_as_frequent():
    """There are twelve. Of 1,200 draws each is expected 100 times, with a standard deviation of 9.6."""
    seen = Counter(latin_square(3, seed).tobytes() for seed in range(1200))
    assert len(seen) == 12
    assert 60 < min(seen.values()) <= max(seen.values()) < 140


def test_squares_that_are_no_group_table_are_reached():
    """Of 161,280 squares of five, 8,640 are isotopes of the cyclic group: most are not."""
    quadrangle = 0
    for seed in range(40):
        square = latin_square(5, seed).astype(int)
        rows = [np.argsort(square[0])[square[r]] for r in range(5)]  # rows as permutations
        closed = all(any(np.array_equal(a[b], c) for c in rows) for a in rows for b in rows)
        quadrangle += closed
    assert quadrangle < 10


def test_functions_by_hand():
    square = latin_square(7, 0)
    made = everything("latin", 7, 1, 3)
    assert made[1, 2, 3, 4] == square[square[square[1, 2], 3], 4]
    assert everything("product", 7, 1, 3)[2, 3, 4, 5] == (2 * 3 + 4 + 5) % 7
    assert everything("product", 7, 2, 1)[2, 3, 4] == (2 + 3) * 4 % 7
    assert everything("sum", 7, 1, 3)[6, 6, 6, 6] == 24 % 7
    bit = everything("bit", 7, 1, 3)
    b, c, d = np.indices((7, 7, 7))
    added = (bit - (b + c + d)) % 7
    assert set(np.unique(added)) == {0, 1}
    assert (added == added[:, :1, :1, :]).all()  # of the front token and the last local one alone
    assert 10 < added[:, 0, 0, :].sum() < 39


def test_a_product_of_large_residues_is_exact():
    p = 4_294_967_291
    sources = [np.array([p - 1], np.uint32) for _ in range(5)]
    made = function("product", modulus=p, j=2, k=3)(sources, p)
    assert made.item() == ((2 * (p - 1)) * (p - 1) + 2 * (p - 1)) % p


@pytest.mark.parametrize(
    ("name", "digest"),
    [("latin", "e852820fba48a10e"), ("lookup", "100b18acfd4c0f17"), ("bit", "355b87c22bc3c6d4")],
)
def test_what_is_drawn_stays_the_same_in_later_versions(name, digest):
    table = everything(name, 7, 1, 3, 1).astype(np.uint8)
    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == digest


def test_lookup_is_a_permutation_in_its_first_local_token_alone():
    table = everything("lookup", 5, 1, 2)
    assert np.array_equal(np.sort(table, 1), np.arange(5)[None, :, None].repeat(5, 0).repeat(5, 2))
    assert not np.array_equal(np.sort(table, 0), np.arange(5)[:, None, None].repeat(5, 1).repeat(5, 2))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("sum", "product")])
def test_the_seed_decides(name):
    one, same, other = (everything(name, 5, 1, 2, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("task", "h"), list(itertools.product(TASKS, FUNCTIONS)))
def test_all_rows_at_once_are_the_plain_loop(task, h):
    made = Task(name=task, j=2, k=2, modulus=5, h=h, h_seed=3)
    prefixes = np.random.default_rng(0).integers(0, 5, (20, 4))
    rows = generate(made, prefixes, 40)
    assert rows.tolist() == generate_loop(made, prefixes, 40)
    assert rows.max() < 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"h": "median"}, "h must be one of sum, latin, product, lookup, bit, got 'median'"),
        ({"h": 3}, "h must be one of sum, latin, product, lookup, bit, got 3"),
        ({"h": "product", "modulus": 15}, "product must have a prime modulus, got 15"),
        ({"h": "latin", "modulus": 65}, "latin must have a modulus <= 64, got 65"),
        ({"h": "lookup", "modulus": 101}, "must have a table of <= 67,108,864 entries, got 104,060,401"),
        ({"h_seed": -1}, "h_seed must be an integer >= 0"),
    ],
)
def test_what_a_function_does_not_take(changes, words):
    with pytest.raises(ValueError, match=words):
        Task(name="cot", **changes)


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 200, 255, 256, 257, 300])
@pytest.mark.parametrize("m", [2, 3, 17, 255, 256])
def test_sums_of_many_tokens(m, count):
    """Also where the sum fits one byte and the largest multiple of m below 2^8 · m does not."""
    rng = np.random.default_rng(count)
    tokens = rng.integers(m, size=(count, 20)).astype(np.uint8)
    tokens[:, 0], tokens[:, 1] = 0, m - 1
    assert np.array_equal(
        function("sum", modulus=m, j=count - 1, k=1, seed=0)(list(tokens), m), tokens.sum(0, int) % m
    )
