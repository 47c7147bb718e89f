import pytest
import torch

import resrope
from resrope.models.apply import rope_of

IDS = torch.randint(3, 128, (1, 40), generator=torch.Generator().manual_seed(2))
GROWN = torch.randint(3, 128, (1, 120), generator=torch.Generator().manual_seed(3))


def stepwise(model, ids):
    """Logits of every token, one at a time through the cache."""
    cache, out = None, []
    with torch.no_grad():
        for j in range(ids.shape[1]):
            step = model(ids[:, j : j + 1], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            out.append(step.logits)
    return torch.cat(out, dim=1)


def whole(model, ids):
    with torch.no_grad():
        return model(ids).logits


def short_model(tiny, **changes):
    model = tiny("llama", max_position_embeddings=32, initializer_range=0.2, **changes)
    model.generation_config.eos_token_id = None
    return model


def test_stock_dynamic_ntk_reads_stale_keys_and_ours_does_not(tiny):
    """Keys stay in the cache with the base of their time: the last logits are not those of one forward."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    stock = short_model(tiny, rope_parameters=rope)
    stale = (stepwise(stock, GROWN)[:, -1] - whole(stock, GROWN)[:, -1]).abs().max()
    ours = short_model(tiny)
    resrope.apply(ours, "dynamic-ntk", factor=2.0, length=GROWN.shape[1])
    fresh = (stepwise(ours, GROWN)[:, -1] - whole(ours, GROWN)[:, -1]).abs().max()
    assert stale > 1e-2
    assert fresh < 1e-5


def test_a_generation_has_the_base_of_the_length_it_may_reach(tiny):
    model, fixed = short_model(tiny), short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    resrope.apply(fixed, "dynamic-ntk", factor=2.0, length=40 + 56)
    options = {"do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        model.generate(IDS, max_new_tokens=56, **options), fixed.generate(IDS, max_new_tokens=56, **options)
    )
    assert rope_of(model).specs == rope_of(fixed).specs
    model.generate(IDS[:, :8], max_length=20, **options)
    assert rope_of(model).specs["default"].scaling.seq_len == 20
    assert torch.allclose(
        model.model.rotary_emb.inv_freq, short_model(tiny).model.rotary_emb.inv_freq, rtol=1e-6
    ), "below the original length it is the plain table"


def test_a_method_with_one_table_leaves_generate_alone(tiny):
    model = short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    resrope.apply(model, "yarn", factor=2.0, replace_scaling=True)
    assert "generate" not in model.__dict__


def test_what_would_mix_bases_is_refused(tiny):
    from transformers import DynamicCache

    model = short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    cache = DynamicCache()
    with torch.no_grad():
        model(IDS, past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="apply it with length="):
        model.generate(IDS, past_key_values=cache, max_new_tokens=4)
    model.generation_config.max_length = None
    with pytest.raises(ValueError, match="pass max_new_tokens or max_length"):
        model.generate(IDS)
