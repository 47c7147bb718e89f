import pytest
from hypothesis import given
from hypothesis import strategies as st

from resrope.finetune.recipe import Recipe, order


def test_the_papers_tokens():
    recipe = Recipe(length=32768, steps=50).with_tokens(100_000_000, processes=4)
    assert recipe.accumulation == 15
    assert recipe.tokens(4) == 50 * 32768 * 4 * 15 == 98_304_000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"length": 1}, "length must be an integer >= 2"),
        ({"length": 256}, r"length must be >= chunk \(512 positions of the loss\), got 256"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"warmup": 1.5}, "warmup must be <= 1"),
        ({"learning_rate": 0}, "learning_rate must be a finite number > 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number >= 0"),
        ({"tuning": "lore"}, "tuning must be one of full, lora, qlora, got 'lore'"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"schedule": "step"}, "schedule must be one of"),
    ],
)
def test_what_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**{"length": 4096, "steps": 4, **given})


@given(chunks=st.integers(1, 30), needed=st.integers(0, 100), seed=st.integers(0, 5))
def test_every_chunk_comes_once_before_any_comes_again(chunks, needed, seed):
    found = order(chunks, needed, seed)
    assert len(found) == needed
    for start in range(0, needed, chunks):
        part = found[start : start + chunks]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(chunks))


def test_an_order_goes_on_the_same_and_follows_the_seed():
    assert order(10, 25, 0)[:15] == order(10, 15, 0)
    assert order(10, 20, 0)[:10] != order(10, 20, 0)[10:]
    assert order(10, 10, 0) != order(10, 10, 1)
