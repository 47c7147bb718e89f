import pytest
import torch
from torch.nn import functional as F

from resrope.longtext import products
from resrope.longtext.forward import token_losses
from resrope.longtext.products import _ByOneDnn, fast_products, one_dnn_is_faster

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
CPU = torch.device("cpu")


@pytest.fixture
def sent(monkeypatch):
    """Shapes of the products that oneDNN made."""
    seen = []
    real = products._linear

    def watch(x, *rest):
        seen.append(tuple(x.shape))
        return real(x, *rest)

    monkeypatch.setattr(products, "_linear", watch)
    return seen


@pytest.fixture
def faster(monkeypatch):
    def choose(value):
        monkeypatch.setattr(products, "one_dnn_is_faster", lambda: value)

    return choose


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_same_up_to_rounding(sent, bias):
    torch.manual_seed(0)
    x, layer = torch.randn(1, 200, 48), torch.nn.Linear(48, 96, bias=bias)
    wanted = (x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)).float()
    with _ByOneDnn():
        torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)
    assert sent == [(1, 200, 48)]


@torch.inference_mode()
def test_only_large_products_of_float32_are_sent(sent):
    layer = torch.nn.Linear(8, 8)
    with _ByOneDnn():
        layer(torch.ones(1, 63, 8))
        layer.double()(torch.ones(1, 64, 8, dtype=torch.float64))
        layer.bfloat16()(torch.ones(1, 64, 8, dtype=torch.bfloat16))
        assert not sent
        F.linear(torch.ones(64, 8), torch.ones(8, 8))
    assert sent == [(64, 8)]


@pytest.mark.parametrize(("chosen", "products_sent"), [(True, True), (False, False)])
def test_losses_are_those_of_either_library(tiny, sent, faster, chosen, products_sent):
    model = tiny("llama", vocab_size=64)
    tokens = torch.randint(0, 64, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
    wanted = F.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
    faster(chosen)
    found = token_losses(model, tokens, chunk=100)
    torch.testing.assert_close(torch.tensor(found), wanted, rtol=0, atol=1e-4)
    assert bool(sent) is products_sent


def test_the_choice_is_by_the_clock_and_kept(monkeypatch):
    for stock, wanted in ((2.0, True), (1.2, False)):
        times = {products._linear: 1.0, F.linear: stock}
        monkeypatch.setattr(products, "_seconds", times.__getitem__)
        one_dnn_is_faster.cache_clear()
        before = torch.random.get_rng_state()
        assert one_dnn_is_faster() is wanted
        times.clear()
        assert one_dnn_is_faster() is wanted, "asked once"
        assert torch.equal(torch.random.get_rng_state(), before)
    one_dnn_is_faster.cache_clear()


def test_another_device_keeps_its_own(faster):
    faster(True)
    assert isinstance(fast_products(CPU), _ByOneDnn)
    assert not isinstance(fast_products(torch.device("cuda")), _ByOneDnn)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_the_same_up_to_rounding(sent, bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 96, bias=bias)
    x, goal = torch.randn(2, 100, 48, requires_grad=True), torch.randn(2, 100, 96)
    given = [x, *layer.parameters()]
    wanted = torch.autograd.grad((layer(x) * goal).sum(), given)
    with _ByOneDnn():
        made = layer(x)
        found = torch.autograd.grad((made * goal).sum(), given)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert len(sent) == 3


def test_frozen_weights_get_no_gradient(sent):
    layer = torch.nn.Linear(48, 96, bias=False).requires_grad_(False)
    x = torch.randn(100, 48, requires_grad=True)
    with _ByOneDnn():
        layer(x).sum().backward()
    assert len(sent) == 2
    assert layer.weight.grad is None


def test_autocast_keeps_its_precision(sent):
    layer, x = torch.nn.Linear(48, 96), torch.randn(100, 48)
    with _ByOneDnn(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not sent


def test_layers_that_are_computed_again_are_sent_again(sent):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 96), torch.randn(100, 48, requires_grad=True)
    (wanted,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    with _ByOneDnn():
        checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    assert len(sent) == 4
    torch.testing.assert_close(layer.weight.grad, wanted, rtol=1e-4, atol=1e-3)


def test_afterwards_torch_is_as_before():
    before = F.linear

    def interrupted():
        with _ByOneDnn():
            assert F.linear is not before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert F.linear is before
