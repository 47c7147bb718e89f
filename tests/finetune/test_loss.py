import pytest
import torch
from torch.nn import functional as F

from resrope.finetune.loss import IGNORED, summed_loss


def parts(positions=37, width=8, words=19, *, bias=False, dtype=torch.float64):
    made = torch.Generator().manual_seed(3)
    hidden = torch.randn(positions, width, generator=made, dtype=dtype, requires_grad=True)
    weight = torch.randn(words, width, generator=made, dtype=dtype, requires_grad=True)
    extra = torch.randn(words, generator=made, dtype=dtype, requires_grad=True) if bias else None
    targets = torch.randint(0, words, (positions,), generator=made)
    targets[[0, 5, positions - 1]] = IGNORED
    return hidden, weight, extra, targets


@pytest.mark.parametrize("chunk", [1, 5, 37, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_cross_entropy_with_its_gradients(chunk, bias):
    hidden, weight, extra, targets = parts(bias=bias, dtype=torch.float32)
    given = [t for t in (hidden, weight, extra) if t is not None]
    wanted = F.cross_entropy(F.linear(hidden, weight, extra), targets, ignore_index=IGNORED, reduction="sum")
    found = summed_loss(hidden, weight, extra, targets, chunk=chunk)
    assert torch.allclose(found, wanted, rtol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(found * 0.25, given), torch.autograd.grad(wanted * 0.25, given), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        assert theirs.abs().max() > 0.01


def test_frozen_weights_cost_no_gradient():
    hidden, weight, _, targets = parts(dtype=torch.float32)
    weight.requires_grad_(False)
    total = summed_loss(hidden, weight, None, targets, chunk=5)
    assert total.grad_fn.slopes[1] is None
    total.backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_without_gradients_none_are_made():
    hidden, weight, _, targets = parts(dtype=torch.float32)
    made = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        linear = F.linear
        patch.setattr(F, "linear", lambda *given: made.append(given) or linear(*given))
        total = summed_loss(hidden, weight, None, targets, chunk=5)
    assert len(made) == 8, "the logits of each chunk, and no product for a gradient"
    assert not total.requires_grad
    wanted = F.cross_entropy(F.linear(hidden, weight), targets, ignore_index=IGNORED, reduction="sum")
    assert torch.allclose(total, wanted, rtol=1e-6)


def test_positions_that_do_not_count_get_no_gradient():
    hidden, weight, _, targets = parts(dtype=torch.float32)
    summed_loss(hidden, weight, None, targets, chunk=4).backward()
    assert torch.equal(hidden.grad[targets == IGNORED], torch.zeros(3, 8))
    assert (hidden.grad[targets != IGNORED].abs().sum(-1) > 0).all()


def test_bfloat16_sums_the_weight_in_float32():
    """512 chunks of one position each: summed in bfloat16, later ones would vanish."""
    hidden, weight, _, _ = parts(512, 4, 3, dtype=torch.float32)
    targets = torch.zeros(512, dtype=torch.int64)
    wanted = torch.autograd.grad(summed_loss(hidden, weight, None, targets, chunk=512), weight)[0]
    low = weight.detach().bfloat16().requires_grad_()
    found = torch.autograd.grad(summed_loss(hidden.bfloat16(), low, None, targets, chunk=1), low)[0]
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wanted, rtol=0.03, atol=0.5)
