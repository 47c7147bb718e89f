import pytest
from hypothesis import given
from hypothesis import strategies as st

from resrope.longtext.windows import Block, Window, blocks, doubling, reached, sliding_windows

CUT = st.integers(2, 40).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window)))


def context(windows):
    """Token -> (its window's first token, how many tokens it sees), each counted once."""
    seen = {}
    for w in windows:
        for token in range(w.scored, w.end):
            assert token not in seen
            seen[token] = (w.start, token - w.start)
    return seen


@given(st.integers(0, 200), CUT)
def test_every_token_but_the_first_counts_once_with_context_enough(tokens, cut):
    window, stride = cut
    windows = sliding_windows(tokens, window, stride)
    seen = context(windows)
    assert sorted(seen) == list(range(1, tokens))
    assert all(0 <= w.start < w.scored < w.end <= w.start + window for w in windows)
    for token, (start, before) in seen.items():
        assert before >= max(1, window - stride) if token >= window else start == 0


@given(st.integers(2, 200), st.integers(0, 200), CUT)
def test_what_a_token_sees_does_not_depend_on_how_much_follows(tokens, more, cut):
    shorter, longer = (context(sliding_windows(n, *cut)) for n in (tokens, tokens + more))
    assert shorter == {token: longer[token] for token in shorter}


def test_windows_by_hand():
    assert sliding_windows(10, 6, 3) == [Window(0, 1, 6), Window(3, 6, 9), Window(6, 9, 10)]
    assert sliding_windows(6, 3, 3) == [Window(0, 1, 3), Window(2, 3, 5), Window(4, 5, 6)]
    assert sliding_windows(4, 8, 2) == [Window(0, 1, 4)]
    assert sliding_windows(1, 8, 2) == sliding_windows(0, 8, 2) == []


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (1, 1, "window must be an integer >= 2"),
        (4, 0, "stride must be an integer >= 1"),
        (4, 5, r"stride must be an integer >= 1 and <= 4 \(.*the window \(4\)\), got 5"),
    ],
)
def test_windows_that_are_none(window, stride, message):
    with pytest.raises(ValueError, match=message):
        sliding_windows(10, window, stride)


@given(st.integers(1, 300), st.integers(2, 50))
def test_blocks_are_all_positions_in_order(longest, size):
    made = blocks(longest, size)
    assert [i for b in made for i in range(b.start, b.end)] == list(range(longest))
    assert all(b.end - b.start == size for b in made[:-1])
    assert len(made) == 1 or size / 2 <= made[-1].end - made[-1].start < 1.5 * size


def test_blocks_by_hand():
    assert blocks(10, 4) == [Block(0, 4), Block(4, 8), Block(8, 10)]
    assert blocks(9, 4) == [Block(0, 4), Block(4, 9)], "one token alone says nothing"
    assert blocks(3, 8) == [Block(0, 3)]
    with pytest.raises(ValueError, match="block must be an integer >= 2"):
        blocks(10, 1)


def test_the_longest_length_that_a_text_has():
    assert [reached([4, 8, 16], n) for n in (3, 4, 15, 16, 99)] == [0, 4, 8, 16, 16]
    assert reached([], 5) == 0


def test_doubling():
    assert doubling(512, 3000) == [512, 1024, 2048, 3000]
    assert doubling(512, 1024) == [512, 1024]
    assert doubling(512, 512) == [512]
    assert doubling(512, 300) == [300]
