import math
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch.nn import functional as F
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5LayerFF, T5LayerNorm

from resrope.posgen.dropout import Dropout, Place
from resrope.posgen.model import Decoder, ModelConfig
from resrope.posgen.ops import (
    add_linear,
    attend,
    norm_linear,
    pair_rows,
    relu_,
    rotation,
)
from resrope.posgen.positions import rotated

SMALL = ModelConfig(d_model=24, n_heads=3, head_dim=10, d_ff=40, n_layers=2, dropout=0.25)
FACTOR = 1.3  # an attention factor carried by the tables


def tables(seq, head_dim, dtype=torch.float32):
    angles = torch.outer(torch.arange(seq), 10000.0 ** -torch.arange(0, 1, 2 / head_dim)).double()
    return (FACTOR * angles.cos()).to(dtype), (FACTOR * angles.sin()).to(dtype)


def tokens(batch=3, seq=11, seed=0):
    return torch.randint(0, 17, (batch, seq), generator=torch.Generator().manual_seed(seed))


def run(model, ids, cos, sin, **options):
    return model(ids, rotated(cos, sin, model.config.n_heads), **options)


def rms_norm(x, gain):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def rotate_half(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def reference(model, ids, cos, sin, dropout=None):
    """The same decoder in plain torch, one textbook line at a time."""
    config, (batch, seq) = model.config, ids.shape

    def drop(x, place, layer=0):
        if dropout is None:
            return x
        mask = dropout.mask(place, layer, tuple(x.shape))
        return x * (mask.noise > mask.limit).view(x.shape) * dropout.scale

    x = drop(model.embedding[ids], Place.EMBEDDING)
    future = torch.ones(seq, seq).triu(1).bool()
    for index, layer in enumerate(model.layers):
        qkv = rms_norm(x, layer.attention_norm) @ layer.qkv.T
        q, k, v = qkv.view(batch, seq, 3, config.n_heads, config.head_dim).permute(2, 0, 3, 1, 4)
        scores = rotate_half(q, cos, sin) @ rotate_half(k, cos, sin).transpose(2, 3)
        weights = drop(scores.masked_fill(future, -math.inf).softmax(-1), Place(1), index)
        context = (weights @ v).transpose(1, 2).reshape(batch, seq, -1)
        x = x + drop(context @ layer.o.T, Place.ATTENTION_OUTPUT, index)
        hidden = (rms_norm(x, layer.feed_forward_norm) @ layer.wi.T).relu()
        hidden = drop(hidden, Place.HIDDEN, index)
        x = x + drop(hidden @ layer.wo.T, Place.FEED_FORWARD_OUTPUT, index)
    x = drop(rms_norm(x, model.final_norm), Place.FINAL)
    return x * config.d_model**-0.5 @ model.embedding.T


def double_model(config=SMALL):
    model = Decoder(config, seed=5).double()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # gains of 1 would hide a forgotten gain
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.mark.parametrize("seed", [None, 9])
def test_logits_and_gradients_equal_the_plain_model(seed):
    model, ids, (cos, sin) = double_model(), tokens(), tables(11, 10, torch.float64)
    dropout = None if seed is None else Dropout(SMALL.dropout, seed)
    want = reference(model, ids, cos, sin, dropout)
    got = run(model, ids, cos, sin, dropout_seed=seed)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    parameters = list(model.parameters())
    pull = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(2))
    for mine, plain in zip(
        torch.autograd.grad((got * pull).sum(), parameters),
        torch.autograd.grad((want * pull).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-8)


def test_paper_size_in_float32_equals_the_plain_model_with_and_without_gradients():
    model, ids, (cos, sin) = Decoder(ModelConfig(), seed=0), tokens(2, 33), tables(33, 64)
    want = reference(model, ids, cos, sin)
    torch.testing.assert_close(run(model, ids, cos, sin), want, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(run(model, ids, cos, sin), want, rtol=1e-3, atol=1e-3)


def test_dropout_applies_without_gradients_too():
    model, ids, (cos, sin) = double_model(), tokens(), tables(11, 10, torch.float64)
    with torch.no_grad():
        got = run(model, ids, cos, sin, dropout_seed=4)
    torch.testing.assert_close(got, reference(model, ids, cos, sin, Dropout(0.25, 4)))


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_every_function_has_the_gradient_of_its_forward(rate):
    def mask(*shape):
        return Dropout(rate, 1).mask(Place.HIDDEN, 0, shape) if rate else None

    check = torch.autograd.gradcheck
    x, gain, weight = random(4, 6), random(6, seed=1), random(5, 6, seed=2)
    assert check(lambda *a: norm_linear(*a, eps=1e-6, mask=mask(4, 6)), (x, gain, weight))
    assert check(lambda a: relu_(a * 1, mask(4, 6)), (x,))
    residual = random(4, 5, seed=3)
    assert check(lambda *a: add_linear(*a, scale=1.7, mask=mask(4, 5)), (residual, x, random(5, 6, seed=4)))
    turns = rotation(*tables(5, 4, torch.float64), n_heads=2)
    assert check(lambda a: attend(a, turns, mask(4, 5, 5)), (random(10, 24, seed=5),))


def test_norm_and_feed_forward_equal_transformers_t5():
    config = T5Config(d_model=16, d_ff=24, dropout_rate=0.0, feed_forward_proj="relu")
    block = T5LayerFF(config).eval()
    x, gain = random(7, 16).float(), torch.linspace(0.5, 1.5, 16)
    block.layer_norm.weight.data = gain
    dense = block.DenseReluDense
    hidden = relu_(norm_linear(x, gain, dense.wi.weight, eps=config.layer_norm_epsilon))
    torch.testing.assert_close(add_linear(x, hidden, dense.wo.weight), block(x))
    norm = T5LayerNorm(16)
    norm.weight.data = gain
    torch.testing.assert_close(norm_linear(x, gain, torch.eye(16), eps=1e-6), norm(x))


def test_pair_rows_by_hand():
    weight = torch.arange(12.0)[:, None]  # q, k, v of one head of four
    assert pair_rows(weight, 1).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("grad", [True, False])
def test_a_later_token_never_changes_earlier_logits(grad):
    model, (cos, sin) = Decoder(SMALL, seed=0), tables(11, 10)
    ids = tokens()
    changed = ids.clone()
    changed[:, 6] = (ids[:, 6] + 1) % 17
    with torch.set_grad_enabled(grad):
        before, after = (
            run(model, ids, cos, sin),
            run(model, changed, cos, sin),
        )
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any(-1).all()


def test_the_same_seeds_give_the_same_bits_whatever_the_global_generator():
    ids, (cos, sin) = tokens(), tables(11, 10)
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        model = Decoder(SMALL, seed=3)
        loss = F.cross_entropy(run(model, ids, cos, sin, dropout_seed=8).flatten(0, 1), ids.flatten())
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    other = run(Decoder(SMALL, seed=3), ids, cos, sin, dropout_seed=9).flatten(0, 1)
    assert F.cross_entropy(other, ids.flatten()) != results[0][0]
    assert not torch.equal(Decoder(SMALL, seed=4).embedding, Decoder(SMALL, seed=3).embedding)


def test_initialisation_is_t5s():
    model = Decoder(ModelConfig(n_layers=1), seed=0)
    (layer,) = model.layers
    q, k, v = layer.qkv.chunk(3)
    expected = [
        (model.embedding, 1.0),
        (q, (512 * 64) ** -0.5),
        (k, 512**-0.5),
        (v, 512**-0.5),
        (layer.o, 512**-0.5),
        (layer.wi, 512**-0.5),
        (layer.wo, 2048**-0.5),
    ]
    for weight, std in expected:
        count = weight.numel()
        assert abs(weight.std().item() / std - 1) < 4 / math.sqrt(2 * count)
        assert abs(weight.mean().item()) < 4 * std / math.sqrt(count)
    assert all(p.eq(1).all() for n, p in model.named_parameters() if "norm" in n)


def test_the_state_dict_holds_plain_tensors_and_the_embedding_once():
    model = Decoder(SMALL, seed=0)
    state = model.state_dict()
    assert all(type(t) is torch.Tensor and t.is_contiguous() for t in state.values())
    assert [n for n, t in state.items() if t.shape == (17, 24)] == ["embedding"]
    other = Decoder(SMALL, seed=1)
    other.load_state_dict(state)
    ids, (cos, sin) = tokens(), tables(11, 10)
    assert torch.equal(run(other, ids, cos, sin), run(model, ids, cos, sin))


@pytest.mark.parametrize("field", [f.name for f in fields(ModelConfig) if f.name != "dropout"])
@pytest.mark.parametrize("value", [0, -2, 2.0, True])
def test_sizes_must_be_positive_integers(field, value):
    with pytest.raises(ValueError, match=f"{field} must be a positive integer, got {value!r}"):
        ModelConfig(**{field: value})


def test_other_bad_settings():
    with pytest.raises(ValueError, match="head_dim must be even, got 7"):
        ModelConfig(head_dim=7)
    with pytest.raises(ValueError, match="dropout must be >= 0 and < 1, got 1"):
        ModelConfig(dropout=1.0)


def test_tables_and_tokens_must_fit():
    model, (cos, sin) = Decoder(SMALL, seed=0), tables(11, 10)
    with pytest.raises(ValueError, match=r"turns must be .* = \[10, 3, 3, 5\], got \[11, 3, 3, 5\]"):
        run(model, tokens(seq=10), cos, sin)
    with pytest.raises(ValueError, match=r"tokens must be int64 \[batch, seq\], got torch.int32"):
        run(model, tokens().int(), cos, sin)


def test_keep_heap_spares_the_next_allocation_its_page_faults():
    program = """
import resource, torch
from resrope.posgen.ops import keep_heap
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(1 << 24).add_(1)  # 64 MiB, more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
if keep_heap():
    # The first rounds fragment the heap; afterwards every block has found its place.
    rounds = [faults() for _ in range(6)]
    assert rounds[-1] < plain / 10, (plain, rounds)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
