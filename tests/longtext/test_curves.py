import math

import numpy as np
import pytest

from resrope.longtext.curves import ENOUGH, SAMPLES, Ratio, Tally, ratios, tally


def losses(*values):
    return np.array(values, dtype=np.float32)


def six_texts():
    """Two cells; the last text does not reach the second."""
    return tally(
        [
            [losses(1.0, 2.0), losses(0.5)],
            [losses(3.0), losses(1.5, 2.5)],
            [losses(2.0), losses(1.0)],
            [losses(1.0), losses(1.0, 2.0, 3.0)],
            [losses(2.5), losses(0.25)],
            [losses(0.0, 0.0, 6.0), losses()],
        ]
    )


def test_a_tally_by_hand():
    made = six_texts()
    assert made.nats.tolist() == [[3, 0.5], [3, 4], [2, 1], [1, 6], [2.5, 0.25], [6, 0]]
    assert made.tokens.tolist() == [[2, 1], [1, 2], [1, 1], [1, 3], [1, 1], [3, 0]]
    assert made.texts() == [6, 5]
    assert made.perplexity() == pytest.approx([math.exp(17.5 / 9), math.exp(11.75 / 8)])


def test_sums_are_in_float64():
    many = np.full(1 << 20, 1.1, dtype=np.float32)
    assert tally([[many]]).nats[0, 0] == pytest.approx(float(np.float32(1.1)) * (1 << 20), rel=1e-12)


def resampled(texts, seed):
    """The texts of every bootstrap sample, as the same generator draws them."""
    draws = np.random.default_rng(seed).multinomial(texts, [1 / texts] * texts, size=SAMPLES)
    return [[i for i, times in enumerate(counts) for _ in range(times)] for counts in draws]


def percentile(values, share):
    """Linear between the two nearest values."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def by_loop(nats, tokens, cell, seed):
    found = []
    for sample in resampled(len(nats), seed):
        count = sum(tokens[i][cell] for i in sample)
        if count:
            found.append(math.exp(sum(nats[i][cell] for i in sample) / count))
    # Φ(−t·√(n/(n−1))) of 6 and 5 texts, from tables of t and Φ.
    tail = {6: 0.002431, 5: 0.000954}[sum(1 for row in tokens if row[cell])]
    return percentile(found, tail), percentile(found, 1 - tail)


@pytest.mark.parametrize("seed", [0, 7])
def test_intervals_are_those_of_a_plain_loop(seed):
    made = six_texts()
    wanted = [by_loop(made.nats, made.tokens, cell, seed) for cell in (0, 1)]
    for found, (low, high) in zip(made.intervals(seed), wanted, strict=True):
        assert found == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))
        assert low < high


@pytest.mark.parametrize(("texts", "least"), [(5, 0.90), (14, 0.925), (40, 0.93)])
def test_intervals_hold_what_they_promise_with_few_texts(texts, least):
    """Of texts that differ normally; the plain percentiles of five hold the truth 84 times of 100."""
    draw, rounds = np.random.default_rng(3), 400
    made = Tally(nats=draw.normal(0.0, 0.1, (texts, rounds)), tokens=np.ones((texts, rounds)))
    held = np.mean([low <= 1.0 <= high for low, high in made.intervals()])
    assert least <= held <= 0.98


def test_what_few_texts_or_none_reach():
    many, few = [losses(1.0), losses(2.0), losses()], [losses(1.0), losses(), losses()]
    made = tally([many] * (ENOUGH - 1) + [few])
    assert made.texts() == [ENOUGH, ENOUGH - 1, 0]
    assert made.perplexity() == [pytest.approx(math.e), pytest.approx(math.exp(2)), None]
    first, second, third = made.intervals()
    assert first == (pytest.approx(math.e), pytest.approx(math.e))
    assert second is third is None
    assert tally([[losses(1.0)]]).intervals() == [None]


def test_a_ratio_is_paired():
    """The texts differ by far, the methods by 10 % on each of them: unpaired intervals would hold 1."""
    other = Tally(nats=np.array([[1.0], [10.0], [20.0], [40.0], [90.0]]), tokens=np.full((5, 1), 10.0))
    one = Tally(nats=other.nats - 10 * math.log(1.1), tokens=other.tokens)
    (made,) = ratios(one, other)
    assert made == Ratio(
        ratio=pytest.approx(1 / 1.1), low=pytest.approx(1 / 1.1), high=pytest.approx(1 / 1.1)
    )
    assert made.certain
    ((low, high),) = other.intervals()
    assert low * 1.5 < high


def test_a_ratio_is_that_of_the_perplexities():
    one, other = six_texts(), six_texts()
    worse = [[0.3], [-0.1], [0.05], [0.2], [-0.3], [0.0]]
    other = Tally(nats=other.nats + other.tokens * worse, tokens=other.tokens)
    for made, a, b in zip(ratios(one, other), one.perplexity(), other.perplexity(), strict=True):
        assert made.ratio == pytest.approx(a / b)
        assert made.low <= made.ratio <= made.high


def test_a_ratio_without_an_interval_or_without_tokens():
    single = tally([[losses(1.0), losses()]])
    made, none = ratios(single, single)
    assert made == Ratio(ratio=1.0, low=None, high=None)
    assert not made.certain
    assert none is None


@pytest.mark.parametrize(
    ("low", "high", "certain"), [(0.9, 0.99, True), (1.01, 1.1, True), (0.9, 1.1, False)]
)
def test_a_ratio_is_certain_where_the_interval_leaves_1_out(low, high, certain):
    assert Ratio(ratio=(low + high) / 2, low=low, high=high).certain is certain


def test_a_ratio_needs_the_same_tokens():
    with pytest.raises(ValueError, match="same tokens on both sides"):
        ratios(tally([[losses(1.0)]]), tally([[losses(1.0, 2.0)]]))
