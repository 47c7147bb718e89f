import math

import numpy as np
import pytest

import resrope
from resrope.analysis import Recurrence, recurrence, recurrences


def table(resonance=False, head_dim=64):
    return resrope.frequencies(resrope.RopeSpec(head_dim=head_dim, resonance=resonance))


def test_by_hand():
    """Two features within 16 tokens, of 6 and 628 tokens with Resonance: only the first turns in them."""
    made = table(resonance=True, head_dim=4)
    assert made.periods == (6, 628)
    curve = recurrence(made, 16, 20)
    assert curve == pytest.approx([math.cos(math.tau * d / 6) for d in range(20)], abs=1e-12)
    assert [r.distance for r in recurrences(made, 16, 26)] == [18, 24]
    assert recurrences(made, 16, 26)[0].cosine == 1.0


def test_against_the_plain_formula():
    made = table()
    wavelengths = np.array(made.wavelengths)
    short = wavelengths[wavelengths < 64]
    assert len(short) == 9
    wanted = np.cos(math.tau * np.arange(256)[:, None] / short).mean(1)
    np.testing.assert_allclose(recurrence(made, 64, 256), wanted, atol=1e-12)


def test_plain_rope_comes_back_by_its_ratio():
    """Neighbouring wavelengths of head_dim 64 and theta 10000 are nearly as 3 to 4."""
    peaks = [r.distance for r in recurrences(table(), 64, 256, least=0.4)]
    assert sorted(peaks) == [76, 101, 134, 177, 182, 238]


def test_peaks_are_peaks_highest_first():
    made, length = table(resonance=True), 256
    curve = recurrence(made, 64, length + 1)
    found = recurrences(made, 64, length, least=0.3)
    assert [r.cosine for r in found] == sorted((r.cosine for r in found), reverse=True)
    assert found[0] == Recurrence(distance=240, cosine=pytest.approx(curve[240]))
    for one in found:
        assert 64 <= one.distance < length
        assert one.cosine >= 0.3
        assert curve[one.distance] == max(curve[one.distance - 1 : one.distance + 2])


def test_a_curve_that_still_rises_at_the_end_has_no_peak_there():
    made = table(resonance=True)
    assert 239 not in [r.distance for r in recurrences(made, 64, 240)]
    assert recurrences(made, 64, 241)[0].distance == 240


def test_nothing_turns():
    made = table()
    assert recurrences(made, 4, 64) == []
    assert (recurrence(made, 4, 64) == 1).all()
    with pytest.raises(ValueError, match="length must be an integer >= 1"):
        recurrence(made, 64, 0)
