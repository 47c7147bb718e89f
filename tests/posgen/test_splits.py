import numpy as np
import pytest

from resrope.posgen.splits import check_disjoint, make_splits
from resrope.posgen.tasks import Task, generate_loop

COT = Task(name="cot")


def prefixes(splits, width):
    return [tuple(row[:width]) for tokens in splits.by_name().values() for row in tokens.tolist()]


def test_defaults_are_the_papers():
    splits = make_splits(COT, seed=0)
    shapes = {name: tokens.shape for name, tokens in splits.by_name().items()}
    assert shapes == {"train": (10_000, 64), "validation": (1_000, 256), "test": (1_000, 256)}
    assert len(set(prefixes(splits, 4))) == 12_000


def test_rows_follow_the_task():
    task = Task(name="semi-recursive", j=2, k=2, modulus=11)
    splits = make_splits(task, train=30, validation=5, test=7, test_length=40, seed=3)
    for tokens in splits.by_name().values():
        assert tokens.tolist() == generate_loop(task, tokens[:, :4], tokens.shape[1])


def test_same_seed_same_bits_and_other_seed_other_bits():
    first, again, other = (make_splits(COT, train=50, seed=seed) for seed in (7, 7, 8))
    assert first.train.tobytes() == again.train.tobytes()
    assert first.test.tobytes() == again.test.tobytes()
    assert first.train.tobytes() != other.train.tobytes()


def test_the_stream_is_pcg64_digit_by_digit():
    """Written out by hand, so that a change of the drawing order is noticed."""
    stream = np.random.PCG64(5)
    expected: list[list[int]] = []
    while len(expected) < 6:
        row = [int(stream.random_raw()) % 2 for _ in range(3)]
        if row not in expected:
            expected.append(row)
    task = Task(name="cot", j=1, k=2, modulus=2)
    sizes = {"train": 3, "validation": 2, "test": 1, "train_length": 9, "test_length": 12}
    splits = make_splits(task, **sizes, seed=5)
    assert [list(prefix) for prefix in prefixes(splits, 3)] == expected


def test_train_rows_do_not_depend_on_the_other_sizes():
    small, large = (make_splits(COT, train=40, test=size, seed=1) for size in (10, 3_000))
    assert np.array_equal(small.train, large.train)


def test_every_prefix_that_exists_can_be_used():
    task = Task(name="recursive", j=1, k=2, modulus=5)
    splits = make_splits(task, train=100, validation=20, test=5, seed=0)
    assert len(set(prefixes(splits, 3))) == 125


def test_too_few_prefixes():
    task = Task(name="cot", j=1, k=2, modulus=5)
    message = r"modulus \*\* \(j\+k\) = 5 \*\* 3 = 125 prefixes exist, fewer than the 126 "
    with pytest.raises(ValueError, match=message):
        make_splits(task, train=100, validation=20, test=6, seed=0)


def test_more_prefixes_than_64_bits_count():
    task = Task(name="cot", j=10, k=10, modulus=1000)
    splits = make_splits(task, train=20, validation=5, test=5, seed=0)
    assert len(set(prefixes(splits, 20))) == 30
    assert splits.train.max() > 900


@pytest.mark.parametrize(
    ("field", "value"),
    [("train", 0), ("validation", 0), ("test", -1), ("seed", -1), ("train_length", 3)],
)
def test_unfit_numbers_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"{field.removeprefix('train_')} must be >= .* got {value}"):
        make_splits(COT, **{"train": 5, "validation": 2, "test": 2, "seed": 0, field: value})


def test_check_disjoint_finds_a_repeat_within_and_across():
    train, test = np.array([[1, 2, 3], [1, 3, 2]]), np.array([[2, 2, 3]])
    check_disjoint({"train": train, "test": test}, 2)
    with pytest.raises(ValueError, match=r"prefix \(1,\) occurs in train and again in train"):
        check_disjoint({"train": train, "test": test}, 1)
    with pytest.raises(ValueError, match=r"prefix \(1, 3\) occurs in train and again in test"):
        check_disjoint({"train": train, "test": np.array([[1, 3, 9]])}, 2)
