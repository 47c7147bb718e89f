"""Folders that cannot become a GGUF file are refused, and nothing is left of it."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from tests.export.convert.tiny import run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gemma2"},
            "model_type must be one of llama, mistral, qwen2, granite, phi3, got 'gemma2'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
        ({"sliding_window": 64}, "sliding_window 64 is shorter than 512 tokens"),
        ({"quantization_config": {"bits": 4}}, "quantised weights cannot be converted"),
        ({"head_dim": 32}, "rotary_dim/2 = 16 frequencies, got 8"),
        ({"num_hidden_layers": 3}, r"the weights lack blk\.2\."),
        ({"num_hidden_layers": 1}, r"weight model\.layers\.1\..* has no place in architecture llama"),
        ({"intermediate_size": None}, "intermediate_size must be an integer"),
    ],
)
def test_configs_that_are_refused(folder, saved, tmp_path, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path / "out.gguf", (folder, *saved("llama")[1:]))
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_numbers_beyond_float16(folder, saved, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"][7, 7] = 65536.0
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"output\.weight has numbers beyond float16; choose dtype bf16 or f32"
    ):
        run(tmp_path / "out.gguf", (folder, *saved("llama")[1:]), dtype="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_bad_paths(folder, saved, tmp_path, monkeypatch):
    model = saved("llama")
    with pytest.raises(ValueError, match=r"config\.json exists already"):
        run(folder / "config.json", model)
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        run(tmp_path / "out.gguf", (tmp_path, *model[1:]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="Too little space"):
        run(tmp_path / "out.gguf", model)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights"):
        run(tmp_path / "out.gguf", (folder, *model[1:]))
    sharded = saved("llama", max_shard_size="50KB")
    copy = tmp_path / "sharded"
    shutil.copytree(sharded[0], copy)
    gone = sorted(copy.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        run(tmp_path / "out.gguf", (copy, *model[1:]))
    assert not (tmp_path / "out.gguf").exists()
