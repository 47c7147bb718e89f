import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resrope
from resrope.analysis import embedded_vector_distance, feature_gap


def table(**kwargs):
    return resrope.frequencies(resrope.RopeSpec(**{"head_dim": 32, **kwargs}))


def chord(t, j, distance):
    if t.periods:
        return 2 * abs(math.sin(math.pi * (distance % t.periods[j]) / t.periods[j]))
    return 2 * abs(math.sin(distance * t.inv_freq[j] / 2))


def brute_force(t, train, test):
    return [
        max(min(chord(t, j, n - m) for m in range(train)) for n in range(train, test))
        for j in range(len(t.inv_freq))
    ]


@given(
    train=st.integers(1, 60),
    extra=st.integers(1, 90),
    resonance=st.booleans(),
    theta=st.floats(2, 1e5),
    factor=st.floats(1, 8),
)
@settings(max_examples=60)
def test_equals_brute_force(train, extra, resonance, theta, factor):
    t = table(rope_theta=theta, resonance=resonance, scaling=resrope.Linear(factor=factor))
    gap = feature_gap(t, train, train + extra)
    np.testing.assert_allclose(gap.per_feature, brute_force(t, train, train + extra), atol=1e-9)


@pytest.mark.parametrize("scaling", [None, resrope.Yarn(factor=4, original_max_position_embeddings=64)])
def test_theorem_1(scaling):
    """Resonance makes the gap of every pre-critical feature exactly 0, however long the test."""
    plain, resonant = (table(head_dim=64, scaling=scaling, resonance=r) for r in (False, True))
    gap = feature_gap(resonant, 64, 100_000)
    for j, wavelength in enumerate(resonant.wavelengths):
        assert (gap.per_feature[j] == 0.0) == (wavelength <= 64)
    assert feature_gap(plain, 64, 100_000).per_feature[:9].min() > 0


def test_summaries():
    gap = feature_gap(table(), 16, 64)
    assert gap.max == max(gap.per_feature)
    assert gap.mean == pytest.approx(sum(gap.per_feature) / 16)


@pytest.mark.parametrize(("train", "test"), [(64, 64), (65, 64), (0, 10), (4, 8.0)])
def test_lengths_must_grow(train, test):
    with pytest.raises(ValueError, match="train_length must be"):
        feature_gap(table(), train, test)


def test_embedded_vector_distance_equals_brute_force():
    a, b = table(), table(scaling=resrope.Linear(factor=3))
    distance = embedded_vector_distance(a, b, 20, 50)
    for j in range(16):
        angles = [
            [2 * abs(math.sin((k * a.inv_freq[j] - n * b.inv_freq[j]) / 2)) for k in range(20)]
            for n in range(50)
        ]
        assert distance.per_feature[j] == pytest.approx(max(min(row) for row in angles), abs=1e-9)


def test_embedded_vector_distance_of_a_table_to_itself_is_zero():
    assert embedded_vector_distance(table(), table(), 50, 50).max == 0.0
    with pytest.raises(ValueError, match="as many features, got 16 and 8"):
        embedded_vector_distance(table(), table(head_dim=16), 50, 50)
