import pytest
import torch
from torch import nn

from resrope.finetune.head import LossHead, install

IDS = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(1))


def step(model, **more):
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False, **more).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_forward_past_the_hooks_is_an_error(tiny):
    """Older wrappers call forward itself: the sum of the logits must never be taken for a loss."""
    model = tiny("llama").train()
    install(model, 16)
    with pytest.raises(RuntimeError, match="was not given its targets"):
        model.forward(input_ids=IDS, labels=IDS)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "phi3", "mixtral", "olmo3", "gpt_oss"])
@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_every_gradient_are_the_models_own(tiny, kind, tied):
    model = tiny(kind, initializer_range=0.2, tie_word_embeddings=tied).train()
    wanted, gradients = step(model)
    install(model, 16)
    found, mine = step(model)
    assert torch.allclose(found, wanted, rtol=1e-5)
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(mine[name], gradient, rtol=1e-3, atol=1e-5), name


def test_targets_that_do_not_count_and_the_number_of_an_update(tiny):
    model = tiny("llama", initializer_range=0.2).train()
    labels = IDS.clone()
    labels[:, :20] = -100
    wanted = model(input_ids=IDS, labels=labels).loss
    halved = model(input_ids=IDS, labels=labels, num_items_in_batch=torch.tensor(80)).loss
    install(model, 16)
    assert torch.allclose(model(input_ids=IDS, labels=labels).loss, wanted, rtol=1e-5)
    mine = model(input_ids=IDS, labels=labels, num_items_in_batch=torch.tensor(80)).loss
    assert torch.allclose(mine, halved, rtol=1e-5)
    assert torch.allclose(mine, wanted / 2, rtol=1e-5)


def test_logits_and_weights_stay(tiny):
    model = tiny("llama", initializer_range=0.2).eval()
    logits, names = model(IDS).logits, list(model.state_dict())
    install(model, 16)
    model(input_ids=IDS, labels=IDS)
    assert torch.equal(model(IDS).logits, logits)
    assert list(model.state_dict()) == names
    assert isinstance(model.lm_head, nn.Linear)


def test_the_logits_of_a_training_step_are_never_whole(tiny):
    """The largest float tensor that is made has a chunk's rows, not the sequence's."""
    from torch.utils._python_dispatch import TorchDispatchMode

    rows = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.shape[-1:] == (128,) and made.is_floating_point():
                rows.append(made.numel() // 128)
            return made

    model = tiny("llama", intermediate_size=96).train()
    with Sizes():
        step(model)
    assert max(rows) == IDS.numel()
    install(model, 16)
    rows.clear()
    with Sizes():
        step(model)
    assert max(r for r in rows if r != 64) == 16  # the head's own gradient is [128, 64]


@pytest.mark.parametrize("cap", [3.0, 1e6])
def test_what_does_more_to_its_logits_is_refused_and_left_alone(tiny, cap):
    model = tiny("gemma2", initializer_range=0.5, final_logit_softcapping=cap).eval()
    wanted = model(input_ids=IDS, labels=IDS).loss
    with pytest.raises(ValueError, match="does more to its logits than a linear head"):
        install(model, 16)
    assert not isinstance(model.lm_head, LossHead)
    assert torch.equal(model(input_ids=IDS, labels=IDS).loss, wanted)
