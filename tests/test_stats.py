import mpmath
import numpy as np
import pytest

from resrope.stats import sign_flips, summarise, t_quantile


@pytest.mark.parametrize("level", [0.5, 0.95, 0.9875, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 31, 1000])
def test_quantiles_against_mpmath(degrees, level):
    """The Student distribution's tails beyond the quantile are what the level leaves."""
    x = degrees / (degrees + mpmath.mpf(t_quantile(degrees, level)) ** 2)
    tails = mpmath.betainc(mpmath.mpf(degrees) / 2, 0.5, 0, x, regularized=True)
    assert float(tails) == pytest.approx(1 - level, rel=1e-9)


def test_five_seeds_by_hand():
    """Mean 3, variance 2.5, standard error sqrt(0.5), t = 2.776445."""
    s = summarise([1, 2, 3, 4, 5])
    assert (s.mean, s.std) == (3, pytest.approx(2.5**0.5))
    assert s.high - s.mean == pytest.approx(2.776445 * 0.5**0.5)
    assert s.mean - s.low == pytest.approx(s.high - s.mean)


def test_few_values():
    assert summarise([]) is None
    one = summarise([0.5])
    assert (one.mean, one.std, one.low, one.high) == (0.5, None, None, None)


def test_signs_that_could_be_others():
    assert sign_flips([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 32  # five never come below 5 %
    assert sign_flips([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]) == 2 / 64
    assert sign_flips([1.0, -2.0, 3.0]) == 6 / 8  # of ±1 ±2 ±3 all but ±(1 + 2 − 3) reach 2
    assert sign_flips([0.0, 0.0]) == 1.0
    assert sign_flips([1.0] * 20) == 1 / 4096


def test_signs_err_once_in_twenty_at_most_however_values_are_distributed():
    random = np.random.default_rng(0)
    values = random.lognormal(sigma=2.0, size=(2000, 2, 8))
    wrong = [sign_flips((one - other).tolist()) < 0.05 for one, other in values]
    assert 0.02 < np.mean(wrong) < 0.06
