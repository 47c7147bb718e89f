import copy
import pickle

import pytest
import torch

import resrope
from resrope.models import rope_from_config
from resrope.models.apply import rope_of
from resrope.models.live import rotary_modules

ARCHITECTURES = (
    "llama mistral mixtral qwen2 qwen3 gemma2 gemma3_text phi phi3 gpt_neox stablelm olmo2 olmo3 cohere glm4 "
    "granite starcoder2 smollm3 falcon gpt_oss deepseek_v3 qwen2_vl"
).split()
YARN = resrope.Yarn(factor=4, original_max_position_embeddings=256)
TABLE = resrope.frequencies(resrope.RopeSpec(head_dim=16, scaling=YARN, resonance=True))


def by_hand(model, rope, tables):
    """Sets buffers and factor directly, by the names that each rotary module has: the oracle."""
    for one in rotary_modules(model, rope):
        for key, layer in one.keys.items():
            prefix = f"{key}_" if key else ""
            buffer = getattr(one.module, f"{prefix}inv_freq")
            buffer.copy_(torch.tensor(tables[layer].inv_freq, dtype=torch.float32))
            setattr(one.module, f"{prefix}attention_scaling", tables[layer].attention_factor)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_apply_save_and_reload_on_every_architecture(tiny, logits, tmp_path, model_type):
    model, oracle = tiny(model_type), tiny(model_type)
    plain = logits(model)
    done = resrope.apply(model, "resonance-yarn", factor=4, exact=False)
    stock = logits(model)
    by_hand(oracle, done.before, done.tables())
    wanted = logits(oracle)
    assert (stock - plain).abs().max() > 1e-4, "the method changes what the model computes"
    assert torch.allclose(stock, wanted, atol=5e-6), "and makes it what the table set by hand makes it"

    resrope.apply(model, "resonance-yarn", factor=4)
    exact = logits(model)
    assert torch.allclose(exact, wanted, atol=5e-6)
    assert not torch.equal(exact, stock), "phases that are rounded once are other floats"

    folder = resrope.save(model, tmp_path / "saved")
    reloaded = type(model).from_pretrained(folder)
    assert torch.equal(logits(reloaded), stock), "a stock loader computes what apply(exact=False) did"
    assert rope_of(reloaded).specs == done.after.specs, "and the config still names the method"


@pytest.mark.parametrize("name", ["rope", "resonance-rope", "linear", "ntk", "yarn", "resonance-ntk"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt_neox"])
def test_every_kind_of_spelling_survives_a_stock_reload(tiny, logits, tmp_path, model_type, name):
    model = tiny(model_type)
    given = {} if name.endswith("rope") else {"factor": 4}
    resrope.apply(model, name, exact=False, **given)
    folder = resrope.save(model, tmp_path / "saved")
    assert torch.equal(logits(type(model).from_pretrained(folder)), logits(model))


def test_positions_a_period_apart_are_the_same_to_the_bit(tiny):
    model = tiny("llama")
    resrope.apply(model, "resonance-yarn", factor=4)
    far = 2**31 - 1 - (2**31 - 1 - 5) % TABLE.periods[0]
    cos, sin = model.model.rotary_emb(torch.zeros(1), torch.tensor([[5, far]]))
    assert (far - 5) % TABLE.periods[0] == 0
    assert torch.equal(cos[0, 0, 0], cos[0, 1, 0])
    assert torch.equal(sin[0, 0, 0], sin[0, 1, 0])


def test_casts_and_copies_keep_the_table(tiny, logits):
    model = tiny("llama")
    resrope.apply(model, "resonance-yarn", factor=4)
    wanted = logits(model)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(half.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(copied), wanted)


def test_stock_models_lose_their_frequencies_in_such_a_cast(tiny):
    """What the test above guards against."""
    model = tiny("llama")
    before = model.model.rotary_emb.inv_freq.clone()
    lost = model.to(torch.bfloat16).model.rotary_emb.inv_freq.float()
    assert ((lost - before) / before).abs().max() > 1e-3


def test_compiled_models_compute_the_same(tiny, logits):
    model = tiny("llama")
    resrope.apply(model, "resonance-yarn", factor=4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(logits(compiled), logits(model))


def test_a_second_method_replaces_the_first_when_asked(tiny, logits):
    model, other = tiny("llama"), tiny("llama")
    resrope.apply(model, "yarn", factor=4)
    with pytest.raises(ValueError, match="already has yarn"):
        resrope.apply(model, "ntk", factor=2)
    resrope.apply(model, "ntk", factor=2, replace_scaling=True)
    resrope.apply(other, "ntk", factor=2)
    assert torch.equal(logits(model), logits(other))
    assert rope_of(model) == rope_of(other)


def test_a_module_that_computes_something_else_is_an_error_and_nothing_changes(tiny, logits):
    model = tiny("llama")
    before = logits(model)
    config = model.config.to_dict()
    stock = type(model.model.rotary_emb)

    class Broken(stock):
        def forward(self, x, position_ids):
            cos, sin = super().forward(x, position_ids)
            return cos * 1.01, sin

    model.model.rotary_emb.__class__ = Broken
    with pytest.raises(RuntimeError, match=r"computes other cos and sin than the table's: off by 0\.01"):
        resrope.apply(model, "resonance-yarn", factor=4)
    assert type(model.model.rotary_emb) is Broken
    assert model.config.to_dict() == config
    model.model.rotary_emb.__class__ = stock
    assert torch.equal(logits(model), before)


def test_refused_in_one_line(tiny):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=128)
    with pytest.raises(ValueError, match="no rotary position embedding"):
        resrope.apply(GPT2LMHeadModel(small), "yarn", factor=4)
    with pytest.raises(ValueError, match="model must be a transformers model, got Linear"):
        resrope.apply(torch.nn.Linear(2, 2), "yarn", factor=4)
    model = tiny("llama")
    resrope.apply(model, "resonance-yarn", factor=4)
    with pytest.raises(ValueError, match="exact=False"):
        model(torch.zeros(1, 4, dtype=torch.long), position_ids=torch.zeros(1, 4))


def test_the_config_keeps_what_is_not_rotary(tiny):
    model = tiny("qwen2_vl")
    resrope.apply(model, "resonance-yarn", factor=4)
    assert model.config.get_text_config().rope_parameters["mrope_section"] == [2, 3, 3]
    assert model.config.get_text_config().max_position_embeddings == 1024
    record = rope_from_config(model.config.to_dict())
    assert record.specs["default"].resonance


def test_layers_with_a_window_keep_their_table(tiny):
    model = tiny("gemma3_text")
    before = model.model.rotary_emb.sliding_attention_inv_freq.clone()
    resrope.apply(model, "resonance-yarn", factor=4)
    assert torch.allclose(model.model.rotary_emb.sliding_attention_inv_freq, before, rtol=1e-6)


def test_the_softmax_scale_of_deepseek_survives(tiny, logits, tmp_path):
    """Its attention computes that scale from factor and mscale_all_dim of the rope parameters."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    model = tiny("deepseek_v3", rope_parameters=rope)
    before = model.model.layers[0].self_attn.scaling
    assert before > tiny("deepseek_v3").model.layers[0].self_attn.scaling
    resrope.apply(model, "resonance-yarn", exact=False)
    reloaded = type(model).from_pretrained(resrope.save(model, tmp_path / "saved"))
    assert reloaded.model.layers[0].self_attn.scaling == before
    assert torch.equal(logits(reloaded), logits(model))


def test_queries_that_grow_with_the_original_length_are_not_touched(tiny):
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "llama_4_scaling_beta": 0.1,
    }
    model = tiny("ministral3", head_dim=16, rope_parameters=rope)
    before = model.config.to_dict()
    with pytest.raises(ValueError, match="scale their queries by original_max_position_embeddings"):
        resrope.apply(model, "resonance-yarn")
    assert model.config.to_dict() == before
    resrope.apply(model, "yarn")
    assert model.config.rope_parameters["llama_4_scaling_beta"] == 0.1


def test_a_model_that_accelerate_has_hooked(tiny):
    from accelerate import cpu_offload

    model, plain = tiny("llama"), tiny("llama")
    cpu_offload(model, execution_device="cpu")
    for one in (model, plain):
        resrope.apply(one, "resonance-yarn", factor=4)
    far = torch.tensor([[1_000_003]])
    assert torch.equal(
        model.model.rotary_emb(torch.zeros(1), far)[0], plain.model.rotary_emb(torch.zeros(1), far)[0]
    )


def test_both_kinds_of_layers(tiny, logits, tmp_path):
    model = tiny("gemma3_text")
    both = ("full_attention", "sliding_attention")
    done = resrope.apply(model, "resonance-yarn", factor=4, layers=both, exact=False)
    assert all(table.periods for table in done.tables().values())
    reloaded = type(model).from_pretrained(resrope.save(model, tmp_path / "saved"))
    assert torch.equal(logits(reloaded), logits(model))


def test_a_type_that_the_model_does_not_take_is_spelled_otherwise(tiny, logits, tmp_path):
    """Phi-3 knows no yarn, but any table as longrope."""
    model = tiny("phi3")
    resrope.apply(model, "yarn", factor=4, exact=False)
    assert model.config.rope_parameters["rope_type"] == "longrope"
    reloaded = type(model).from_pretrained(resrope.save(model, tmp_path / "saved"))
    assert torch.equal(logits(reloaded), logits(model))


def test_a_model_without_values_is_refused(tiny):
    with torch.device("meta"):
        model = tiny("llama")
    with pytest.raises(ValueError, match="after the weights are loaded"):
        resrope.apply(model, "yarn", factor=4)


def test_weights_that_hold_the_attention_factor_get_no_other(tiny):
    model = tiny("llama")
    resrope.apply(model, "yarn", factor=4)
    model.config.resrope = {**model.config.resrope, "folded_attention_factor": 1.2}
    with pytest.raises(ValueError, match=r"already hold an attention factor of 1\.2"):
        resrope.apply(model, "yarn", factor=8, replace_scaling=True)
    resrope.apply(model, "ntk", factor=2, replace_scaling=True)
    assert model.config.resrope["folded_attention_factor"] == 1.2, "it is still in there"
