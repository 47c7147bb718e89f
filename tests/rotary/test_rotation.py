import cmath

import pytest
import torch

import resrope
from resrope.rotary import RotaryEmbedding, apply_rotary, cos_sin

SPEC = resrope.RopeSpec(
    head_dim=16,
    scaling=resrope.Yarn(factor=4, original_max_position_embeddings=64),
    resonance=True,
)


def by_complex_numbers(x, table, m, layout):
    """Eq. 1, one pair at a time."""
    half = len(table.inv_freq)
    out = list(x)
    for j in range(half):
        a, b = (j, j + half) if layout == "half" else (2 * j, 2 * j + 1)
        z = complex(x[a], x[b]) * cmath.exp(1j * m * table.inv_freq[j]) * table.attention_factor
        out[a], out[b] = z.real, z.imag
    return out


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_rotation_is_multiplication_by_a_phase(layout, share):
    table = resrope.frequencies(
        resrope.RopeSpec(head_dim=16, partial_rotary_factor=share, scaling=SPEC.scaling)
    )
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 5, 16), torch.randn(2, 1, 5, 16)
    positions = torch.tensor([0, 1, 7, 100, 5000])
    rotated_q, rotated_k = RotaryEmbedding(table, layout)(q, k, positions)
    for source, rotated in ((q, rotated_q), (k, rotated_k)):
        for s, m in enumerate(positions.tolist()):
            expected = by_complex_numbers(source[1, 0, s].tolist(), table, m, layout)
            torch.testing.assert_close(rotated[1, 0, s], torch.tensor(expected), atol=2e-6, rtol=0)


def test_scores_depend_on_the_distance_alone():
    """Eq. 6, at positions half a billion apart, where float32 phases would be noise."""
    table = resrope.frequencies(resrope.RopeSpec(head_dim=64))
    q, k = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)
    rope = RotaryEmbedding(table)

    def score(m, n):
        a, _ = rope(q, k, torch.tensor([m]))
        _, b = rope(q, k, torch.tensor([n]))
        return (a * b).sum()

    assert score(12, 5) == pytest.approx(score(500_000_012, 500_000_005).item(), abs=2e-5)


def test_batched_positions():
    table = resrope.frequencies(SPEC)
    q = torch.randn(2, 3, 4, 16)
    positions = torch.tensor([[0, 1, 2, 3], [9, 8, 7, 6]])
    rotated, _ = RotaryEmbedding(table)(q, q, positions)
    alone, _ = RotaryEmbedding(table)(q[1:], q[1:], positions[1])
    assert torch.equal(rotated[1:], alone)


def test_casting_the_module_cannot_round_its_frequencies():
    table = resrope.frequencies(SPEC)
    module = torch.nn.Sequential(RotaryEmbedding(table)).to(torch.bfloat16)
    cos, _ = module[0].cos_sin(torch.arange(1000))
    expected, _ = cos_sin(table, torch.arange(1000))
    assert torch.equal(cos, expected * table.attention_factor)
    assert not list(module.parameters())
    assert not list(module.buffers())


def test_low_precision_is_rotated_in_float32():
    table = resrope.frequencies(SPEC)
    cos, sin = cos_sin(table, torch.arange(4))
    x = torch.randn(1, 1, 4, 16, dtype=torch.bfloat16)
    out = apply_rotary(x, cos, sin)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, apply_rotary(x.float(), cos, sin).bfloat16())


def test_user_mistakes():
    cos, sin = cos_sin(resrope.frequencies(SPEC), torch.arange(4))
    with pytest.raises(ValueError, match="layout must be one of half, interleaved, got 'neox'"):
        apply_rotary(torch.zeros(4, 16), cos, sin, "neox")
    with pytest.raises(ValueError, match="must be >= rotary_dim = 16, got 8"):
        apply_rotary(torch.zeros(4, 8), cos, sin)
