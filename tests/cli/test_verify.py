import json

import pytest
import torch
from typer.testing import CliRunner

from resrope.cli import main
from resrope.cli.shell import app

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "rope_theta": 1e5,
}
TINY = {
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "vocab_size": 128,
    "initializer_range": 0.5,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


@pytest.fixture
def model(tmp_path, capsys):
    """A folder with weights, extended with Resonance YaRN."""
    import resrope

    torch.manual_seed(0)
    from transformers import AutoModelForCausalLM, LlamaConfig

    made = AutoModelForCausalLM.from_config(LlamaConfig(**{**LLAMA, **TINY}))
    resrope.apply(made, "resonance-yarn", factor=4)
    folder = resrope.save(made, tmp_path / "model")
    capsys.readouterr()
    return folder


@pytest.fixture
def _bars():
    """transformers' progress bars as a user has them: shown."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    yield
    if not before:
        logging.disable_progress_bar()


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def call(capsys, *arguments):
    """Exit code, standard output, standard error, as from a shell."""
    with pytest.raises(SystemExit) as caught:
        main(["verify", *map(str, arguments)])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_a_table_of_engines(folder):
    result = run(folder, "--no-logits")
    assert result.exit_code == 0, result.output
    assert result.output.count("as written") == 6
    assert "right for at least one engine" in result.output


def test_json_for_machines(folder):
    data = json.loads(run(folder, "--no-logits", "--json").output)
    assert data["passed"] is True
    assert data["engines"]["vllm"]["objection"] is None
    assert data["engines"]["vllm"]["inv_freq"] < 1e-6
    assert (data["logits"], data["logits_not_run"]) == ({}, None)


def lost(folder):
    """Make the config one that MLX reads otherwise than it was written for MLX."""
    import resrope
    from resrope.models import rope_from_config
    from resrope.models.extension import extension
    from resrope.models.portable import spelled

    done = extension(rope_from_config(LLAMA), "resonance-yarn", factor=4)
    assert resrope.frequencies(done.after.specs["default"]).attention_factor != 1
    (folder / "config.json").write_text(json.dumps(spelled(LLAMA, done, "longrope", engine="mlx")))


def test_exit_code_1_where_the_engine_it_was_written_for_reads_otherwise(folder):
    lost(folder)
    result = run(folder, "--no-logits")
    assert result.exit_code == 1
    assert "WRONG for mlx" in result.output


@pytest.mark.parametrize("name", ["", "config.json"])
def test_without_weights_the_readings_decide(capsys, folder, name):
    code, out, err = call(capsys, folder / name)
    assert (code, err) == (0, "")
    assert out.count("as written") == 6
    assert "\nno weights here: logits were not run\nright for at least one engine\n" in out
    lost(folder)
    assert call(capsys, folder / name)[0] == 1
    _, out, _ = call(capsys, folder / name, "--json")
    assert json.loads(out)["logits_not_run"] == "no weights here"


@pytest.mark.usefixtures("_bars")
def test_it_is_run_without_a_bar(capsys, model):
    code, out, err = call(capsys, model)
    assert (code, err) == (0, "")
    assert "transformers-5, run here: logits differ by at most" in out
    assert "nats, right: at most 0.0001" in out
    assert out.endswith("right for at least one engine\n")
    code, out, err = call(capsys, model, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["logits"]["transformers-5"]["wrong"] is False
    assert data["passed"] is True


def test_exit_code_1_where_an_engine_rotates_otherwise_than_it_reads(capsys, model, monkeypatch):
    """A transformers whose longrope is plain RoPE: every reading is right, and only running it shows."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def plain(config, device=None, **kwargs):
        return 1.0 / 1e5 ** (torch.arange(0, 16, 2).float() / 16), 1.0

    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "longrope", plain)
    code, out, _ = call(capsys, model)
    assert code == 1
    assert "nats, WRONG: above 0.0001\nWRONG as run by transformers-5\n" in out
    code, out, _ = call(capsys, model, "--json")
    assert code == 1
    data = json.loads(out)
    assert (data["passed"], data["logits"]["transformers-5"]["wrong"]) == (False, True)
    assert data["logits"]["transformers-5"]["kl"] > 0.01


def test_no_verdict_is_said_and_does_not_fail(capsys, model, monkeypatch):
    import resrope.models.logits as module

    rounded = module.LogitDifference(engine="transformers-5", largest=2.2, kl=0.012, limit=None)
    monkeypatch.setattr(module, "logit_differences", lambda path, specs: (rounded,))
    code, out, _ = call(capsys, model)
    assert code == 0
    assert "KL 1.2e-02 nats, no verdict: with these weights transformers-5's own rounding is as large" in out


def test_logits_that_are_no_numbers(capsys, model, monkeypatch):
    import resrope.models.logits as module

    forward = module._forward
    monkeypatch.setattr(module, "_forward", lambda m, ids: forward(m, ids) * float("nan"))
    code, out, _ = call(capsys, model, "--json")
    assert code == 1
    measured = json.loads(out)["logits"]["transformers-5"]
    assert (measured["wrong"], measured["kl"]) == (True, None)


@pytest.mark.usefixtures("_bars")
def test_damaged_weights_are_one_line_after_the_table(capsys, model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, out, err = call(capsys, model)
    assert code == 2
    assert "as written" in out
    assert "right" not in out
    assert err.startswith(f"error: {model}: transformers cannot load it: SafetensorError: ")
    assert err.count("\n") == 1
    code, out, err = call(capsys, model, "--json")
    data = json.loads(out)
    assert (code, data["passed"], data["logits"]) == (2, None, {})
    assert data["engines"]["transformers-5"]["objection"] is None
    assert "SafetensorError" in data["logits_not_run"]


def test_a_model_that_transformers_does_not_know(capsys, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "nobody_has_this"}))
    code, out, err = call(capsys, model)
    assert code == 2
    assert "transformers-5" in out
    assert err.startswith(f"error: {model}: transformers cannot load it: ")
    assert err.count("\n") == 1
    assert len(err) < 500


def test_smollm2_is_a_name(capsys, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_context_length(8192)
    writer.add_rope_dimension_count(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    monkeypatch.setattr("resrope.models.gguf.smollm2_path", lambda: tmp_path / "x.gguf")
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "smollm2", "--no-logits")
    assert (code, err) == (0, "")
    assert "smollm2: the table its config describes, 8192 tokens" in out
    assert "right for llama.cpp" in out
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2" / "config.json").write_text(json.dumps(LLAMA))
    assert "transformers-5" in call(capsys, "./smollm2", "--no-logits")[1]


def test_a_name_of_nothing(capsys, tmp_path):
    for name in ("nowhere", "nowhere.gguf"):
        code, out, err = call(capsys, tmp_path / name)
        assert (code, out) == (2, "")
        assert "no such file or folder" in err
        assert err.count("\n") == 1
