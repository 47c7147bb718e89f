import random

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import resrope
from resrope.rotary import cos_sin
from resrope.rotary import tables as tables_module
from resrope.rotary.phases import Phases

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def table(resonance, theta=10000.0, head_dim=128, factor=None):
    scaling = factor and resrope.Yarn(factor=factor, original_max_position_embeddings=4096)
    spec = resrope.RopeSpec(head_dim=head_dim, rope_theta=theta, scaling=scaling, resonance=resonance)
    return resrope.frequencies(spec)


def exact(table, m, j, function):
    with mpmath.workdps(50):
        theta = 2 * mpmath.pi / table.periods[j] if table.periods else mpmath.mpf(table.inv_freq[j])
        return float(function(m * theta))


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("resonance", [True, False])
@pytest.mark.parametrize("theta", [1e4, 5e5, 1e7])
def test_error_against_mpmath_below_3e_7(theta, resonance, float64):
    t = table(resonance, theta, factor=8)
    rng = random.Random(int(theta) + resonance)
    positions = [0, 1, 1_048_576, 2**31 - 1, *(rng.randrange(2**31) for _ in range(30))]
    phases = Phases(t, torch.device("cpu"))
    phases.float64 = float64
    cos, sin = tables_module.cos_sin_from(phases, torch.tensor(positions), torch.float32)
    for i, m in enumerate(positions):
        for j in range(64):
            assert abs(float(cos[i, j]) - exact(t, m, j, mpmath.cos)) < 2e-7
            assert abs(float(sin[i, j]) - exact(t, m, j, mpmath.sin)) < 2e-7


def test_error_against_the_exact_frequency_below_3e_7():
    """Also with θ_j = b^(-2j/d) itself, not its float64: at 2^31 float64 alone costs 1.2e-7."""
    t = table(False, 1e7)
    positions = [2**31 - 1 - 977 * i for i in range(40)]
    cos, _ = cos_sin(t, torch.tensor(positions))
    with mpmath.workdps(50):
        for j in range(64):
            theta = mpmath.mpf(10) ** (mpmath.mpf(-7 * 2 * j) / 128)
            errors = [abs(float(cos[i, j]) - float(mpmath.cos(m * theta))) for i, m in enumerate(positions)]
            assert max(errors) < 3e-7


def test_stock_float32_is_wrong_where_ours_is_right():
    t = table(False)
    m = torch.arange(1_048_576 - 4096, 1_048_576)
    reference = np.cos(np.outer(m.numpy().astype(np.float64), np.array(t.inv_freq)))
    stock = torch.outer(m.float(), torch.tensor(t.inv_freq, dtype=torch.float32)).cos()
    ours, _ = cos_sin(t, m)
    assert np.abs(stock.numpy() - reference).max() > 3e-2
    assert np.abs(ours.numpy() - reference).max() < 3e-7


@given(
    m=st.integers(0, 2**31 - 1),
    j=st.integers(0, 63),
    k=st.integers(1, 2**31),
    theta=st.sampled_from([1e4, 5e5, 1e6, 1e7]),
)
@settings(max_examples=300)
def test_theorem_1_holds_bit_for_bit(m, j, k, theta):
    t = RESONANT[theta]
    shifted = m + k % max(1, (2**31 - 1 - m) // t.periods[j]) * t.periods[j]
    for dtype in DTYPES:
        cos, sin = cos_sin(t, torch.tensor([m, shifted]), dtype)
        assert torch.equal(cos[0, j], cos[1, j])
        assert torch.equal(sin[0, j], sin[1, j])


RESONANT = {theta: table(True, theta) for theta in (1e4, 5e5, 1e6, 1e7)}


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_theorem_1_wherever_the_position_stands_in_the_batch(dtype, float64):
    """Vector lanes, their tails and block borders must not matter: long, odd-sized batches."""
    t = table(True, head_dim=6)
    phases = Phases(t, torch.device("cpu"))
    phases.float64 = float64
    cos, sin = tables_module.cos_sin_from(phases, torch.arange(70_001), dtype)
    for j, period in enumerate(t.periods):
        m = torch.arange(70_001)
        assert torch.equal(cos[:, j], cos[m % period, j])
        assert torch.equal(sin[:, j], sin[m % period, j])


def test_any_shape_and_negative_positions():
    t = table(False)
    positions = torch.tensor([[0, 5, -5], [7, 8, 9]])
    cos, sin = cos_sin(t, positions)
    assert cos.shape == (2, 3, 64)
    assert torch.equal(cos[0, 1], cos[0, 2])
    assert torch.equal(sin[0, 1], -sin[0, 2])
    empty, _ = cos_sin(t, positions[:0])
    assert empty.shape == (0, 3, 64)


def test_unrotated_features_stay_put():
    scaling = resrope.Proportional()
    for resonance in (False, True):
        spec = resrope.RopeSpec(head_dim=16, partial_rotary_factor=0.25, scaling=scaling, resonance=resonance)
        cos, sin = cos_sin(resrope.frequencies(spec), torch.tensor([0, 1, 2**31 - 1]))
        assert torch.equal(cos[:, 2:], torch.ones(3, 6))
        assert torch.equal(sin[:, 2:], torch.zeros(3, 6))


def test_float_positions_are_refused():
    with pytest.raises(ValueError, match=r"positions must be integers .* got torch.float32"):
        cos_sin(table(False), torch.tensor([1.0]))


@pytest.mark.parametrize("resonance", [True, False])
def test_memory_is_that_of_the_result(resonance):
    """Temporaries stay in blocks of a few hundred kilobytes; nothing else is as large as the result."""
    sizes = {}

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):  # a view shares its storage with what it looks at
                sizes[out.untyped_storage().data_ptr()] = out.untyped_storage().nbytes()
            return out

    positions = torch.arange(50_000)
    with Watch():
        cos, _ = cos_sin(table(resonance), positions)
    whole = cos.numel() * cos.element_size()
    assert sum(size >= whole for size in sizes.values()) == 2  # cos and sin themselves
    assert max(size for size in sizes.values() if size < whole) <= 2**16 * 8
