import pytest
import torch
from transformers import AttentionInterface

from resrope.longtext import attention
from resrope.longtext.attention import NAME, chunk_attention, install_where_right, register


def softmax_attention(query, key, value, scale):
    """softmax(QKᵀ·scale)V in float64, one head and one query at a time."""
    heads, chunk = query.shape[1], query.shape[2]
    group, past = heads // key.shape[1], key.shape[2] - chunk
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for batch in range(query.shape[0]):
        for head in range(heads):
            for i in range(chunk):
                seen_keys = key[batch, head // group, : past + i + 1].double()
                weights = torch.softmax(seen_keys @ query[batch, head, i].double() * scale, 0)
                out[batch, head, i] = weights @ value[batch, head // group, : past + i + 1].double()
    return out


def states(heads, shared, chunk, past, dim=16, value_dim=16, batch=1, dtype=torch.float32):
    draw = torch.Generator().manual_seed(heads + chunk + past)
    shapes = [(heads, chunk, dim), (shared, past + chunk, dim), (shared, past + chunk, value_dim)]
    return [(2 * torch.randn(batch, *shape, generator=draw)).to(dtype) for shape in shapes]


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(("chunk", "past"), [(1, 0), (7, 0), (1, 9), (5, 1), (7, 40), (40, 7)])
def test_it_is_softmax_attention(heads, shared, chunk, past):
    query, key, value = states(heads, shared, chunk, past)
    made = chunk_attention(query, key, value)
    assert torch.allclose(made.double(), softmax_attention(query, key, value, 0.25), atol=2e-6)


@pytest.mark.parametrize(("chunk", "past"), [(7, 9), (16, 0), (13, 1)])
def test_a_square_halved_down_to_a_few_queries(monkeypatch, chunk, past):
    monkeypatch.setattr(attention, "_SQUARE", 3)
    query, key, value = states(4, 2, chunk, past)
    made = chunk_attention(query, key, value)
    assert torch.allclose(made.double(), softmax_attention(query, key, value, 0.25), atol=2e-6)


def test_a_chunk_beyond_the_smallest_square():
    query, key, value = states(4, 2, 2 * attention._SQUARE + 3, 77)
    made = chunk_attention(query, key, value)
    assert torch.allclose(made.double(), softmax_attention(query, key, value, 0.25), atol=2e-5)


@pytest.mark.parametrize("past", [0, 11])
def test_values_narrower_than_keys_a_scale_and_a_batch(past):
    query, key, value = states(4, 2, 6, past, dim=24, value_dim=8, batch=2)
    made = chunk_attention(query, key, value, 0.7)
    assert made.shape == (2, 4, 6, 8)
    assert torch.allclose(made.double(), softmax_attention(query, key, value, 0.7), atol=2e-6)


def test_bfloat16():
    query, key, value = states(6, 2, 33, 100, dtype=torch.bfloat16)
    made = chunk_attention(query, key, value)
    assert made.dtype == torch.bfloat16
    assert (made.double() - softmax_attention(query, key, value, 0.25)).abs().max() < 0.03


def test_a_past_that_outweighs_the_chunk_and_one_that_does_not_count():
    query, key, value = states(2, 2, 3, 5)
    for factor in (100.0, 0.0):
        key[:, :, :5] = factor * key[:, :, :5]
        made = chunk_attention(query, key, value)
        assert torch.allclose(made.double(), softmax_attention(query, key, value, 0.25), atol=2e-6)


def interface():
    return AttentionInterface()[register()]


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_what_it_cannot_do_is_refused(name):
    query, key, value = states(2, 2, 3, 5)
    with pytest.raises(ValueError, match=f"attention with {name} needs --attn eager"):
        interface()(torch.nn.Module(), query, key, value, None, **{name: torch.ones(2)})


def test_a_mask_goes_to_sdpa():
    query, key, value = states(4, 2, 3, 5)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    mask = torch.ones(3, 8, dtype=torch.bool).tril(5)
    masked, _ = interface()(module, query, key, value, mask[None, None], scaling=0.25)
    plain, _ = interface()(module, query, key, value, None, scaling=0.25)
    assert NAME == "resrope_chunked"
    assert masked.shape == plain.shape == (1, 3, 4, 16)
    assert torch.allclose(masked, plain, atol=2e-6)


def test_a_model_that_reads_the_mask_itself_keeps_what_it_has(tiny):
    """doge adds its own mask to the one that it is given: without one it would see what comes after."""
    shape = {"keep_window_size": 2048, "is_moe": False}
    for model, wanted in ((tiny("doge", **shape), "sdpa"), (tiny("llama"), NAME), (tiny("gpt_neox"), NAME)):
        model.set_attn_implementation("sdpa")
        install_where_right(model)
        assert model.config._attn_implementation == wanted


@pytest.fixture
def unmasked(monkeypatch):
    """The chunks that attended without a mask."""
    seen = []

    def watch(query, *others):
        seen.append(query.shape[2])
        return chunk_attention(query, *others)

    monkeypatch.setattr(attention, "chunk_attention", watch)
    return seen


@pytest.fixture
def ours_and_stock(tiny):
    models = [tiny("llama", initializer_range=0.2) for _ in range(2)]
    models[0].set_attn_implementation(register())
    models[1].set_attn_implementation("sdpa")
    for model in models:
        model.generation_config.eos_token_id = None
    return models


IDS = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(1))
PADDED = torch.ones_like(IDS)
PADDED[0, :7] = 0


def logits(model, ids, mask, past=0):
    """Of the tokens after ``past``, which are read first, without a mask."""
    with torch.no_grad():
        cache = model(ids[:, :past], use_cache=True).past_key_values if past else None
        return model(ids[:, past:], attention_mask=mask, past_key_values=cache).logits


@pytest.mark.parametrize("past", [0, 15])
def test_a_mask_of_ones_is_none(ours_and_stock, unmasked, past):
    ours, stock = ours_and_stock
    made = logits(ours, IDS, torch.ones_like(IDS), past)
    assert unmasked == [past] * 2 * bool(past) + [40 - past] * 2  # two layers
    assert torch.allclose(made, logits(stock, IDS, None)[:, past:], atol=1e-5)


@pytest.mark.parametrize("mask", [PADDED, torch.ones(2, 25)], ids=["left padding", "too short for the keys"])
def test_a_mask_that_hides_keys_is_one(ours_and_stock, unmasked, mask):
    ours, stock = ours_and_stock
    made = logits(ours, IDS, mask, 15)
    assert unmasked == [15] * 2
    assert torch.allclose(made, logits(stock, IDS, mask, 15), atol=1e-5)
    assert not torch.allclose(made, logits(stock, IDS, None, 15), atol=1e-2)


def test_generate_reads_a_prompt_at_once_and_then_token_by_token(ours_and_stock, unmasked):
    alone, batch = [], []
    for model in ours_and_stock:
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        rows = [(IDS[:1, 7:], PADDED[:1, 7:]), (IDS[1:], PADDED[1:])]
        alone.append([model.generate(ids, attention_mask=ones, **options)[0, -6:] for ids, ones in rows])
        batch.append(model.generate(IDS, attention_mask=PADDED, **options)[:, -6:])
    assert unmasked == [33, 33, *[1] * 10, 40, 40, *[1] * 10]
    wanted = torch.stack(alone[1])
    assert len(set(wanted.flatten().tolist())) > 6
    assert torch.equal(torch.stack(alone[0]), wanted)
    assert torch.equal(batch[0], wanted)
    assert torch.equal(batch[1], wanted)
