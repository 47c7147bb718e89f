import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resrope.posgen.functions import sum_mod
from resrope.posgen.tasks import (
    TASKS,
    Task,
    cot,
    generate,
    generate_loop,
    recursive,
    semi_recursive,
)


def test_worked_examples():
    assert cot([1, 2, 3, 4], length=6, modulus=7) == [1, 2, 3, 4, 3, 4]
    # x_5 = 2 + 3 + 4 + 3 = 12, x_6 = 3 + 4 + 3 + 5 = 15
    assert recursive([1, 2, 3, 4], length=7, modulus=7) == [1, 2, 3, 4, 3, 5, 1]
    # The pointer stands on x_0 for x_4 and x_5, on x_1 for x_6 and x_7, on x_2 for x_8.
    assert semi_recursive([1, 2, 3, 4], length=9, modulus=7) == [1, 2, 3, 4, 3, 4, 6, 1, 0]


def test_worked_example_with_two_front_tokens():
    # x_3 = 1+2+3, x_4 = 1+2+x_3, x_5 = 1+2+x_4 mod 10
    assert cot([1, 2, 3], length=6, modulus=10, j=2, k=1) == [1, 2, 3, 6, 9, 2]


def test_recursive_with_two_tokens_is_fibonacci():
    fibonacci = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
    assert recursive([1, 1], length=11, modulus=1000, j=1, k=1) == fibonacci


@pytest.mark.parametrize(
    ("name", "position", "sources"),
    [
        ("recursive", 12, (8, 9, 10, 11)),
        ("cot", 12, (0, 9, 10, 11)),
        ("semi-recursive", 12, (4, 9, 10, 11)),  # p = (12 - 4) // 2
        ("semi-recursive", 4, (0, 1, 2, 3)),
        ("semi-recursive", 5, (0, 2, 3, 4)),
        ("semi-recursive", 6, (1, 3, 4, 5)),
    ],
)
def test_sources_at_the_papers_setting(name, position, sources):
    assert Task(name=name).sources(position) == sources


def test_sources_with_several_front_tokens():
    task = Task(name="semi-recursive", j=2, k=3)
    assert [task.sources(at)[:2] for at in range(5, 10)] == [(0, 1), (0, 1), (1, 2), (1, 2), (2, 3)]


@settings(max_examples=60)
@given(
    name=st.sampled_from(TASKS),
    j=st.integers(1, 4),
    k=st.integers(1, 4),
    # 128 | 129 and 256 | 257 are where the sum and the tokens outgrow a byte.
    modulus=st.sampled_from([2, 3, 17, 127, 128, 129, 255, 256, 257, 32768, 65537, 2**31, 2**32]),
    extra=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_vectorised_equals_the_loop(name, j, k, modulus, extra, seed):
    task = Task(name=name, j=j, k=k, modulus=modulus)
    prefixes = np.random.default_rng(seed).integers(0, modulus, (5, j + k))
    prefixes[0] = modulus - 1
    rows = generate(task, prefixes, j + k + extra)
    assert rows.dtype == task.dtype
    assert rows.flags.c_contiguous
    assert rows.tolist() == generate_loop(task, prefixes, j + k + extra)


def test_dtype_is_the_smallest_that_holds_the_modulus():
    sizes = {17: np.uint8, 256: np.uint8, 257: np.uint16, 65536: np.uint16, 65537: np.uint32}
    assert {m: Task(name="cot", modulus=m).dtype for m in sizes} == sizes


def test_sum_mod_leaves_its_arguments_alone():
    first, second = np.array([16, 3], np.uint8), np.array([16, 16], np.uint8)
    assert sum_mod([first, second], 17).tolist() == [15, 2]
    assert (first.tolist(), second.tolist()) == ([16, 3], [16, 16])


def test_own_function_works_on_wide_integers():
    def product(sources, modulus):
        return sources[0] * sources[1] * sources[2] * sources[3] % modulus

    task = Task(name="cot", h=product)
    prefixes = [[16, 15, 14, 13], [1, 2, 3, 4]]  # 16·15·14·13 = 43680 needs 16 bits
    assert generate(task, prefixes, 5)[:, 4].tolist() == [43680 % 17, 24 % 17]
    assert generate(task, prefixes, 9).tolist() == generate_loop(task, prefixes, 9)
    assert cot([1, 2, 3, 4], 5, 17, h=product) == [1, 2, 3, 4, 7]


def test_own_function_must_stay_in_range():
    with pytest.raises(ValueError, match=r"h must return tokens in \[0, 17\), got 34 to 34"):
        cot([1, 2, 3, 4], 5, 17, h=lambda sources, modulus: sources[0] * 34)


@pytest.mark.parametrize(
    ("h", "words"),
    [
        (lambda sources, modulus: sum(sources) / 8, "h must return an array of integers, got float64"),
        (lambda sources, modulus: [0], "h must return an array of integers, got list"),
        (lambda sources, modulus: sources[0] == 0, "h must return an array of integers, got bool"),
        (lambda sources, modulus: sources[0][:1], r"the shape of its sources, \(2,\), got \(1,\)"),
    ],
)
def test_own_function_must_return_tokens(h, words):
    with pytest.raises(ValueError, match=words):
        generate(Task(name="cot", h=h), [[1, 2, 3, 4], [4, 3, 2, 1]], 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "cots"}, "recursive, cot, semi-recursive, got 'cots'"),
        ({"name": "cot", "j": 0}, "j must be an integer >= 1 .*, got 0"),
        ({"name": "cot", "k": 0}, "k must be an integer >= 1 .*, got 0"),
        ({"name": "cot", "k": 1.5}, "k must be an integer >= 1 .*, got 1.5"),
        ({"name": "cot", "modulus": 1}, "modulus must be an integer >= 2 .*, got 1"),
        ({"name": "cot", "modulus": 2**32 + 1}, "modulus must be an integer >= 2 and <= 4294967296"),
        ({"name": "cot", "h": "median"}, "h must be one of sum"),
    ],
)
def test_unfit_tasks_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        Task(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prefixes", "length", "message"),
    [
        ([[1, 2, 3]], 8, "shape"),
        ([1, 2, 3, 4], 8, "shape"),
        ([[1, 2, 3, 17]], 8, r"\[0, 17\), got 1 to 17"),
        ([[1, 2, 3, -1]], 8, r"\[0, 17\), got -1 to 3"),
        ([[1.0, 2.0, 3.0, 4.0]], 8, "integers, got float64"),
        ([[1, 2, 3, 4]], 3, "length must be >= j"),
    ],
)
def test_unfit_prefixes_are_refused(prefixes, length, message):
    for make in (generate, generate_loop):
        with pytest.raises(ValueError, match=message):
            make(Task(name="cot"), prefixes, length)


def test_a_position_in_the_prefix_has_no_sources():
    with pytest.raises(ValueError, match=r"position must be >= j\+k = 4"):
        Task(name="cot").sources(3)
