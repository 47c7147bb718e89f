import json

import pytest
from typer.testing import CliRunner

from resrope.cli.shell import app

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "rope_theta": 1e5,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


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
    assert data["logits"] == {}


def test_exit_code_1_where_the_engine_it_was_written_for_reads_otherwise(folder):
    import resrope
    from resrope.models import rope_from_config
    from resrope.models.extension import extension
    from resrope.models.portable import spelled

    done = extension(rope_from_config(LLAMA), "resonance-yarn", factor=4)
    assert resrope.frequencies(done.after.specs["default"]).attention_factor != 1
    (folder / "config.json").write_text(json.dumps(spelled(LLAMA, done, "longrope", engine="mlx")))
    result = run(folder, "--no-logits")
    assert result.exit_code == 1
    assert "WRONG for mlx" in result.output
