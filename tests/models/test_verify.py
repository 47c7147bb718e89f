import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers.utils import logging

import resrope
from resrope.models import logits
from resrope.models.logits import LogitDifference, logit_differences, why_not_run
from resrope.models.verify import verify
from resrope.spec import LongRope, RopeSpec

# Weights this large make a random model's logits depend on its rotation.
LOUD = {"initializer_range": 0.5}


@pytest.fixture
def saved(tiny, tmp_path):
    model = tiny("llama", **LOUD)
    resrope.apply(model, "resonance-yarn", factor=4)
    return resrope.save(model, tmp_path / "saved")


def check(found, engine):
    return next(c for c in found.checks if c.engine == engine)


def test_every_engine_against_the_recorded_table(saved):
    found = verify(saved)
    assert found.method == "resonance-yarn"
    assert found.length == 1024
    assert found.passed
    for engine in ("transformers-5", "transformers-4"):
        assert check(found, engine).objection is None
        assert check(found, engine).distance.inv_freq < 2e-7
    mlx = check(found, "mlx")
    assert mlx.distance.attention_factor > 0.1, "which takes no attention_factor"
    assert "attention factor" in mlx.objection


def test_a_lost_scaling_is_found(saved):
    config = json.loads((saved / "config.json").read_text())
    del config["rope_scaling"]
    (saved / "config.json").write_text(json.dumps(config))
    found = verify(saved)
    assert found.passed, "transformers 5 still reads rope_parameters"
    assert check(found, "transformers-4").distance.inv_freq > 1
    assert "rope_parameters" in check(found, "transformers-4").objection


def test_a_config_that_nobody_extended_is_its_own_measure(tiny, tmp_path):
    tiny("qwen2").save_pretrained(tmp_path / "plain")
    found = verify(tmp_path / "plain")
    assert (found.method, found.written_for, found.passed) == (None, None, True)


def test_the_engine_it_was_written_for_decides(saved):
    config = json.loads((saved / "config.json").read_text())
    config["resrope"]["engine"] = "mlx"
    (saved / "config.json").write_text(json.dumps(config))
    assert not verify(saved).passed


def test_written_for_transformers_means_the_newest(saved):
    config = json.loads((saved / "config.json").read_text())
    config["resrope"]["engine"] = "transformers"
    (saved / "config.json").write_text(json.dumps(config))
    found = verify(saved)
    assert found.passed
    old = check(found, "transformers-4")
    others = [c for c in found.checks if c.engine != "transformers-5"]
    lost = SimpleNamespace(engine="transformers-5", objection="reads it otherwise")
    assert old.objection is None
    assert not replace(found, checks=(lost, *others)).passed


@pytest.mark.parametrize("name", ["", "tgi", 5])
def test_an_engine_that_nobody_knows(saved, name):
    config = json.loads((saved / "config.json").read_text())
    config["resrope"]["engine"] = name
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"must be one of transformers, .*llama\.cpp, got"):
        verify(saved)


def test_logits_of_a_stock_loader_are_those_of_exact_phases(saved):
    (found,) = logit_differences(saved, verify(saved).specs_at(64))
    assert found.engine == "transformers-5"
    assert 0 < found.largest < 1e-3
    assert found.kl < 1e-8
    assert not found.wrong


def test_logits_are_against_the_wanted_tables_not_the_config(tiny, saved, tmp_path):
    tiny("llama", **LOUD).save_pretrained(tmp_path / "plain")
    (found,) = logit_differences(tmp_path / "plain", verify(saved).specs)
    assert found.wrong
    assert found.kl > 0.1
    assert verify(saved).contradicted([found]) == ("transformers-5",)
    assert verify(tmp_path / "plain").contradicted([]) == ()


def test_the_reference_is_what_apply_gives(tiny, saved, logits_of):
    """The wanted tables on plain weights give what the saved model gives, and that is far from plain."""
    wanted = verify(saved).specs
    model = tiny("llama", **LOUD)
    ids = torch.randint(0, 128, (64,), generator=torch.Generator().manual_seed(0))
    reference = logits._reference(saved, model, ids, wanted)
    assert torch.allclose(reference, logits_of(saved, ids), atol=1e-3)
    assert not torch.allclose(logits_of(tiny("llama", **LOUD), ids), reference, atol=0.1)


@pytest.fixture
def logits_of():
    from transformers import AutoModelForCausalLM

    def compute(model, ids):
        if not isinstance(model, torch.nn.Module):
            model = AutoModelForCausalLM.from_pretrained(model)
        with torch.no_grad():
            return model(ids[None]).logits[0]

    return compute


def test_a_measurement_its_reading_already_tells_does_not_contradict_it(saved):
    found = verify(saved)
    far = {"largest": 1.0, "kl": 1.0, "limit": 1e-4}
    assert found.contradicted([LogitDifference(engine="mlx", **far)]) == ()
    assert found.contradicted([LogitDifference(engine="transformers-4", **far)]) == ("transformers-4",)


def test_short_texts_have_another_table_only_where_nothing_is_recorded(saved):
    assert verify(saved).specs_at(64) == verify(saved).specs
    two = LongRope(
        short_factor=(1.0, 1.0), long_factor=(2.0, 2.0), factor=4.0, original_max_position_embeddings=128
    )
    specs = {"default": RopeSpec(head_dim=4, rope_theta=1e4, scaling=two)}
    found = replace(verify(saved), specs=specs)
    assert found.specs_at(64) == specs
    near = replace(found, method=None).specs_at(64)["default"]
    assert resrope.frequencies(near).inv_freq == (1.0, 0.01)


@pytest.mark.parametrize(
    ("kl", "limit", "wrong"),
    [(0.5, 1e-4, True), (1e-5, 1e-4, False), (0.5, None, False), (math.nan, 1e-4, True)],
)
def test_the_bound(kl, limit, wrong):
    assert LogitDifference(engine="mlx", largest=0.0, kl=kl, limit=limit).wrong is wrong


def test_the_divergence_by_hand():
    reference = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
    other = torch.tensor([[math.log(3.0), 0.0], [0.0, -math.inf]])
    found = logits._difference("mlx", other, reference, None)
    # 1/2 ln((1/2)/(3/4)) + 1/2 ln((1/2)/(1/4)), and 0 in the second row.
    assert found.kl == pytest.approx((0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2, rel=1e-6)
    assert found.largest == pytest.approx(math.log(3.0))
    assert math.isnan(logits._difference("mlx", other * math.nan, reference, None).kl)


def test_what_cannot_be_run_is_told(saved, tmp_path, monkeypatch):
    assert why_not_run(saved) is None
    assert why_not_run(saved / "config.json") == "no weights here"
    assert why_not_run(tmp_path) == "no weights here"
    (tmp_path / "pytorch_model.bin").touch()
    assert "pickles are never loaded" in why_not_run(tmp_path)
    (tmp_path / "x.gguf").touch()
    monkeypatch.setattr(logits, "find_spec", lambda name: None)
    assert why_not_run(tmp_path / "x.gguf") == "llama-cpp-python is not installed here"
    assert logit_differences(tmp_path / "x.gguf", {}) == ()


@pytest.mark.parametrize(
    ("kinds", "limit"),
    [(("F32",), 1e-4), (("F32", "F16"), 1e-3), (("F32", "BF16"), None), (("F16", "Q8_0"), None)],
)
def test_the_bound_of_a_gguf_file_follows_its_weights(tmp_path, kinds, limit):
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    for kind in kinds:
        type_ = GGMLQuantizationType[kind]
        data = quantize(np.ones((1, 32), dtype=np.float32), type_)
        writer.add_tensor(kind, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert logits._gguf_limit(tmp_path / "x.gguf") == limit


@pytest.mark.parametrize(("limit", "wrong"), [(1e-3, True), (None, False)])
def test_a_gguf_file_is_run_by_llama_cpp_alone(tiny, saved, tmp_path, monkeypatch, limit, wrong):
    plain = tiny("llama", **LOUD)
    ids = torch.arange(64)
    monkeypatch.setattr(logits, "find_spec", lambda name: True)
    monkeypatch.setattr(logits, "_model", lambda path: (tiny("llama", **LOUD), ids))
    monkeypatch.setattr(logits, "_llama_cpp", lambda path, ids: logits._forward(plain, ids))
    monkeypatch.setattr(logits, "_gguf_limit", lambda path: limit)
    (found,) = logit_differences(tmp_path / "x.gguf", verify(saved).specs)
    assert (found.engine, found.wrong) == ("llama.cpp", wrong)
    assert found.kl > 0.1


@pytest.mark.parametrize("shown", [True, False])
def test_bars_are_as_before_even_after_a_failure(saved, shown):
    from transformers import modeling_gguf_pytorch_utils

    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:200])
    before, bar = logging.is_progress_bar_enabled(), modeling_gguf_pytorch_utils.tqdm
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        with pytest.raises(ValueError, match=r"saved: transformers cannot load it: SafetensorError: [^\n]+$"):
            logit_differences(saved, verify(saved).specs)
        assert logging.is_progress_bar_enabled() is shown
        assert modeling_gguf_pytorch_utils.tqdm is bar
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_a_model_without_a_rotary_module(tiny, tmp_path):
    tiny("gptj", n_embd=64, n_head=4, n_layer=1, rotary_dim=8, n_positions=256).save_pretrained(
        tmp_path / "j"
    )
    with pytest.raises(ValueError, match="resrope cannot make the reference for its logits: GPTJForCausalLM"):
        logit_differences(tmp_path / "j", verify(tmp_path / "j").specs)


def test_layer_types_each_have_their_reference(tiny, tmp_path):
    model = tiny("gemma3_text", query_pre_attn_scalar=1, initializer_range=0.05)
    resrope.apply(model, "yarn", factor=4)
    folder = resrope.save(model, tmp_path / "saved")
    found = verify(folder)
    assert set(found.specs) == {"full_attention", "sliding_attention"}
    (right,) = logit_differences(folder, found.specs)
    swapped = dict(zip(found.specs, reversed(found.specs.values()), strict=True))
    (wrong,) = logit_differences(folder, swapped)
    assert (right.wrong, wrong.wrong) == (False, True)


def test_an_engine_that_fails_is_named(saved, monkeypatch):
    def fails(path, ids):
        raise KeyError("model.layers.0")

    monkeypatch.setattr(logits, "find_spec", lambda name: name == "mlx_lm")
    monkeypatch.setattr(logits, "_mlx", fails)
    with pytest.raises(ValueError, match=r"saved: MLX-LM cannot run it: KeyError: 'model\.layers\.0'$"):
        logit_differences(saved, verify(saved).specs)


def test_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        verify(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="a config must be a mapping"):
        verify(tmp_path)


def test_two_tables_for_two_ranges_are_read_as_written(tiny, tmp_path):
    """Phi-3 as published: other factors beyond the original length."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 64,
    }
    model = tiny("phi3", rope_parameters=rope, original_max_position_embeddings=64)
    model.save_pretrained(tmp_path / "phi3")
    found = verify(tmp_path / "phi3")
    assert found.passed
    assert next(c for c in found.checks if c.engine == "transformers-5").objection is None
