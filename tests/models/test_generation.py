import copy
import pickle

import pytest
import torch

import resrope
from resrope.models.generation import reach

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


OPTIONS = {"do_sample": False, "pad_token_id": 0}


def seen(model):
    """The lengths and frequencies of every forward from now on, but for the probes of a new table."""
    found = []

    def look(module, args, kwargs):
        positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if positions.max() < 1000:
            found.append((int(positions.max()) + 1, module.inv_freq.clone()))

    model.model.rotary_emb.register_forward_pre_hook(look, with_kwargs=True)
    return found


def test_a_generation_has_the_base_of_the_length_it_may_reach(tiny):
    model, fixed = short_model(tiny), short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    resrope.apply(fixed, "dynamic-ntk", factor=2.0, length=40 + 56)
    found = seen(model)
    made = model.generate(IDS, max_new_tokens=56, **OPTIONS)
    assert torch.equal(made, fixed.generate(IDS, max_new_tokens=56, **OPTIONS))
    assert len(found) == 56
    assert all(torch.equal(inv_freq, fixed.model.rotary_emb.inv_freq) for _, inv_freq in found)
    found.clear()
    model.generate(IDS[:, :8], max_length=30, **OPTIONS)
    plain = short_model(tiny).model.rotary_emb.inv_freq
    assert torch.allclose(found[0][1], plain, rtol=1e-6), "below the original length it is the plain table"


def test_outside_a_generation_it_is_the_table_of_the_promised_length(tiny, tmp_path):
    model, fixed = short_model(tiny), short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    resrope.apply(fixed, "dynamic-ntk", factor=2.0, length=64)
    model.generate(IDS[:, :3], max_new_tokens=4, **OPTIONS)
    assert model.config.max_position_embeddings == 64
    assert torch.equal(whole(model, GROWN), whole(fixed, GROWN))
    reloaded = resrope.load(resrope.save(model, tmp_path / "saved"))
    assert torch.equal(whole(reloaded, GROWN), whole(fixed, GROWN))


def test_copies_and_pickles_generate_with_their_own_weights(tiny):
    model = short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    wanted = model.generate(IDS, max_new_tokens=5, **OPTIONS)
    others = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
    for parameter in model.parameters():
        parameter.data.zero_()
    for other in others:
        found = seen(other)
        assert torch.equal(other.generate(IDS, max_new_tokens=5, **OPTIONS), wanted)
        assert found


def test_it_stays_open_when_it_is_applied_again(tiny):
    model = short_model(tiny)
    resrope.apply(model, "dynamic-ntk", factor=2.0)
    model.generate(IDS[:, :3], max_new_tokens=4, **OPTIONS)
    done = resrope.apply(model, "resonance-dynamic-ntk")
    assert done.length == 64
    assert "generate" in model.__dict__


@pytest.mark.parametrize(
    ("own", "given", "kwargs", "wanted"),
    [
        ({}, None, {"max_new_tokens": 5}, 45),
        ({}, None, {"max_length": 100}, 100),
        ({"max_new_tokens": 90}, {"max_length": 40}, {}, 130),
        ({"max_new_tokens": 7}, {"do_sample": False}, {}, 47),
    ],
)
def test_the_length_is_the_one_that_generate_makes(tiny, own, given, kwargs, wanted):
    """Of the call, its generation config and the model's own."""
    from transformers import GenerationConfig

    model = short_model(tiny)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    config = None if given is None else GenerationConfig(**given)
    made = model.generate(IDS, config, **{**OPTIONS, **kwargs} if config is None else kwargs)
    assert made.shape[1] == reach(model, IDS, config, kwargs) == wanted


def test_without_a_limit_it_is_what_transformers_makes_then(tiny):
    assert reach(short_model(tiny), IDS, None, {}) == 40 + 20
    assert reach(short_model(tiny), None, None, {"max_new_tokens": 5}) == 6, (
        "a beginning of sequence, then five"
    )


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
