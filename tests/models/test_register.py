import json
import subprocess
import sys

import pytest
import torch

import resrope
from resrope.models.scaling import known_types

LENGTHS = {"original_max_position_embeddings": 256}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **LENGTHS}
LONGROPE = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0, **LENGTHS}
CASES = {
    "resonance": ({}, None),
    "resonance_linear": ({"factor": 4.0}, resrope.Linear(factor=4.0)),
    "resonance_ntk": ({"factor": 4.0}, resrope.NTKAware(factor=4.0)),
    "ntk": ({"factor": 4.0}, resrope.NTKAware(factor=4.0)),
    "resonance_dynamic": (
        {"factor": 2.0, "seq_len": 900},
        resrope.DynamicNTK(factor=2.0, original_max_position_embeddings=1024, seq_len=900),
    ),
    "resonance_yarn": (
        {"factor": 4.0, "beta_fast": 16.0, **LENGTHS},
        resrope.Yarn(factor=4.0, beta_fast=16.0, **LENGTHS),
    ),
    "resonance_llama3": (LLAMA3, resrope.Llama3(**LLAMA3)),
    "resonance_longrope": (LONGROPE, resrope.LongRope(**LONGROPE, seq_len=1024)),
}


@pytest.fixture(autouse=True)
def _registered(stock_rope_types):
    assert set(resrope.register()) == CASES.keys()


def test_every_type_is_one_that_configs_are_read_with():
    assert CASES.keys() <= set(known_types())


def rotary(model):
    return next(m for name, m in model.named_modules() if name.endswith("rotary_emb"))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "falcon"])
@pytest.mark.parametrize("name", CASES)
def test_a_rope_type_in_the_config_is_enough(tiny, logits, name, model_type):
    given, scaling = CASES[name]
    rope = {"rope_type": name, "rope_theta": 1e4, **given}
    model = tiny(model_type, max_position_embeddings=1024, rope_parameters=rope)
    table = resrope.frequencies(resrope.RopeSpec(head_dim=16, scaling=scaling, resonance=name != "ntk"))
    assert torch.equal(rotary(model).inv_freq, torch.tensor(table.inv_freq, dtype=torch.float32))
    assert rotary(model).attention_scaling == table.attention_factor
    assert torch.isfinite(logits(model)).all()


def test_partial_rotation(tiny):
    rope = {"rope_type": "resonance_yarn", "factor": 4.0, "rope_theta": 1e4, **LENGTHS}
    model = tiny("gpt_neox", max_position_embeddings=1024, rope_parameters=rope)
    scaling = resrope.Yarn(factor=4.0, **LENGTHS)
    spec = resrope.RopeSpec(head_dim=16, partial_rotary_factor=0.25, scaling=scaling, resonance=True)
    wanted = torch.tensor(resrope.frequencies(spec).inv_freq, dtype=torch.float32)
    assert torch.equal(rotary(model).inv_freq, wanted)


def test_the_base_of_resonance_dynamic_does_not_move(tiny, logits):
    rope = {"rope_type": "resonance_dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = tiny("llama", max_position_embeddings=64, rope_parameters=rope)
    before = model.model.rotary_emb.inv_freq.clone()
    logits(model, 300)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)


def test_one_layer_type_can_have_it(tiny):
    nested = {
        "full_attention": {"rope_type": "resonance_linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    model = tiny("gemma3_text", rope_parameters=nested)
    spec = resrope.RopeSpec(head_dim=16, rope_theta=1e6, scaling=resrope.Linear(factor=8.0), resonance=True)
    wanted = torch.tensor(resrope.frequencies(spec).inv_freq, dtype=torch.float32)
    assert torch.equal(model.model.rotary_emb.full_attention_inv_freq, wanted)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "resonance_yarn", "beta": 1}, "yarn does not take beta"),
        ({"rope_type": "resonance_linear"}, "linear needs factor"),
        ({"rope_type": "ntk", "factor": 0.5}, "factor must be a finite number >= 1"),
    ],
)
def test_a_wrong_parameter_is_an_error_when_the_config_is_made(parameters, message):
    from transformers import LlamaConfig

    with pytest.raises(Exception, match=message):
        LlamaConfig(rope_parameters={"rope_theta": 1e4, **parameters})


def test_it_reloads_where_it_is_registered_and_nowhere_else(tiny, logits, tmp_path):
    rope = {"rope_type": "resonance_yarn", "factor": 4.0, "rope_theta": 1e4, **LENGTHS}
    model = tiny("llama", max_position_embeddings=1024, rope_parameters=rope)
    model.save_pretrained(tmp_path / "native")
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "native")), logits(model))
    assert json.loads((tmp_path / "native/config.json").read_text())["rope_parameters"] == rope
    code = (
        f"from transformers import AutoModelForCausalLM as M; M.from_pretrained({str(tmp_path / 'native')!r})"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "KeyError: 'resonance_yarn'" in other.stderr
