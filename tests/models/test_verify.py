import json

import pytest

import resrope
from resrope.models.logits import logit_differences
from resrope.models.verify import verify


@pytest.fixture
def saved(tiny, tmp_path):
    model = tiny("llama")
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


def test_logits_of_a_stock_loader_are_those_of_exact_phases(saved):
    (found,) = logit_differences(saved)
    assert found.engine == "transformers"
    assert 0 < found.largest < 5e-6
    assert found.kl < 1e-10


def test_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        verify(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="a config must be a mapping"):
        verify(tmp_path)
