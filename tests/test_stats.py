import mpmath
import pytest

from resrope.stats import summarise, t_quantile


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
