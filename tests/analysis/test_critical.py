import pytest

import resrope
from resrope.analysis import critical_dimension, is_pre_critical, period_lcm


def table(head_dim, resonance=False):
    return resrope.frequencies(resrope.RopeSpec(head_dim=head_dim, resonance=resonance))


def test_llama_2():
    """Section 3.2 and the remark under Theorem 1."""
    assert critical_dimension(table(128), 4096) == 46
    assert sum(is_pre_critical(table(128), 4096)) == 46
    lcm = period_lcm(table(128, True), 4096)
    assert lcm > 7 * 10**51
    assert f"{lcm:.3e}" == "7.058e+51"
    assert period_lcm(table(128), 4096) is None


def test_posgen_model():
    """By the paper's own definition 9 of 32; the 17 of its text is what head_dim 128 gives."""
    assert critical_dimension(table(64), 64) == 9
    assert critical_dimension(table(128), 64) == 17


def test_all_pre_critical():
    assert critical_dimension(table(16), 10**9) == 8
    assert critical_dimension(table(16), 1) == 0
    with pytest.raises(ValueError, match="train_length must be an integer >= 1"):
        critical_dimension(table(16), 0)
