import mpmath
import pytest

from resrope.stats import _T95, summarise


def test_quantiles_against_mpmath():
    """The Student distribution's tail beyond each quantile is 2.5 %."""
    for degrees, quantile in enumerate(_T95, start=1):
        x = degrees / (degrees + mpmath.mpf(quantile) ** 2)
        tail = mpmath.betainc(mpmath.mpf(degrees) / 2, 0.5, 0, x, regularized=True) / 2
        assert float(tail) == pytest.approx(0.025, abs=5e-6)


def test_five_seeds_by_hand():
    """Mean 3, variance 2.5, standard error sqrt(0.5), t = 2.7764."""
    s = summarise([1, 2, 3, 4, 5])
    assert (s.mean, s.std) == (3, pytest.approx(2.5**0.5))
    assert s.high - s.mean == pytest.approx(2.7764 * 0.5**0.5)
    assert s.mean - s.low == pytest.approx(s.high - s.mean)


def test_few_values():
    assert summarise([]) is None
    one = summarise([0.5])
    assert (one.mean, one.std, one.low, one.high) == (0.5, None, None, None)
