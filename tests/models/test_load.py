import json

import pytest
import torch

import resrope
from resrope.models.apply import rope_of
from resrope.models.hook import TableRotary


@pytest.fixture
def saved(tiny, tmp_path):
    model = tiny("llama")
    model.save_pretrained(tmp_path / "plain")
    return model, tmp_path / "plain"


def test_load_with_a_method_is_apply_on_the_loaded_model(saved, logits):
    model, folder = saved
    resrope.apply(model, "resonance-yarn", factor=4)
    loaded = resrope.load(folder, method="resonance-yarn", factor=4)
    assert torch.equal(logits(loaded), logits(model))


def test_load_without_a_method_keeps_the_tables_and_makes_them_exact(saved, logits, tmp_path):
    model, _ = saved
    resrope.apply(model, "resonance-yarn", factor=4)
    resrope.save(model, tmp_path / "extended")
    again = resrope.load(tmp_path / "extended")
    assert torch.equal(logits(again), logits(model)), "integer wavelengths come back from the config"
    assert isinstance(again.model.rotary_emb, TableRotary)
    stock = resrope.load(tmp_path / "extended", exact=False)
    assert not isinstance(stock.model.rotary_emb, TableRotary)


def test_saved_configs_have_both_spellings(saved, tmp_path):
    model, _ = saved
    resrope.apply(model, "yarn", factor=4)
    config = json.loads((resrope.save(model, tmp_path / "out") / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert config["rope_scaling"]["type"] == config["rope_scaling"]["rope_type"] == "yarn"
    assert config["rope_theta"] == 10000.0
    assert config["resrope"]["method"] == "yarn"


def test_a_save_that_fails_leaves_nothing(saved, tmp_path, monkeypatch):
    model, folder = saved
    with pytest.raises(ValueError, match="exists"):
        resrope.save(model, folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resrope.models.load.atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        resrope.save(model, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain"]


def test_parameters_need_a_method(tmp_path):
    with pytest.raises(ValueError, match="factor, length must come with a method"):
        resrope.load(tmp_path, factor=4, length=100)


def test_pickles_are_not_read(saved):
    model, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"transformers cannot load it: OSError: .*safetensors"):
        resrope.load(folder, method="yarn", factor=4)


def test_a_table_for_every_length_needs_one_to_be_exact(tiny, tmp_path):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    tiny("llama", rope_parameters=rope).save_pretrained(tmp_path / "dynamic")
    with pytest.raises(ValueError, match="give the method and length="):
        resrope.load(tmp_path / "dynamic")
    model = resrope.load(tmp_path / "dynamic", method="dynamic-ntk", length=500)
    assert rope_of(model).specs["default"].scaling.seq_len == 500


def test_a_model_that_rotates_otherwise_than_its_config_says_is_not_saved(tiny, tmp_path):
    by_hand, reassigned = tiny("llama"), tiny("llama")
    by_hand.model.rotary_emb.inv_freq.mul_(0.25)
    reassigned.config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    for model in (by_hand, reassigned):
        with pytest.raises(ValueError, match="other frequencies than the model's config describes"):
            resrope.save(model, tmp_path / "saved")
        assert not list(tmp_path.iterdir())


def test_what_needs_a_method_is_named(tmp_path):
    with pytest.raises(ValueError, match="layers, replace_scaling must come with a method"):
        resrope.load(tmp_path, layers=("full_attention",), replace_scaling=True)


def test_saved_files_have_the_mode_of_new_files(saved, tmp_path):
    model, _ = saved
    folder = resrope.save(model, tmp_path / "out")
    (tmp_path / "new").touch()
    wanted = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in folder.iterdir()} == {wanted}


@pytest.mark.parametrize("what", [3, None])
def test_only_models_are_saved(tmp_path, what):
    with pytest.raises(ValueError, match="model must be a transformers model"):
        resrope.save(what, tmp_path / "out")


def test_bars_that_are_turned_off_stay_off_for_a_gguf_file(monkeypatch):
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    from resrope.models.load import _bars_as_asked

    before = reader.tqdm
    for enabled, disabled in ((True, None), (False, True)):
        monkeypatch.setattr(logging, "is_progress_bar_enabled", lambda enabled=enabled: enabled)
        with _bars_as_asked():
            assert reader.tqdm.keywords == {"disable": disabled}
            assert list(reader.tqdm([1, 2], desc="tensors")) == [1, 2]
    assert reader.tqdm is before
