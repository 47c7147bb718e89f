import json

import pytest

from resrope.cli import main

SIZES = {"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 2048}
LLAMA = {"model_type": "llama", **SIZES, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
NESTED = {"model_type": "llama", **SIZES, "rope_parameters": {**YARN, "rope_theta": 5e5}}
FLAT = {**NESTED, "model_type": "olmo3", "rope_theta": 5e5}


def call(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *map(str, arguments)])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.fixture
def written(tmp_path):
    def write(config):
        path = tmp_path / "model" / "config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(config), encoding="utf-8")
        return path.parent

    return write


def test_a_healthy_model(capsys, written):
    code, out, err = call(capsys, written(LLAMA))
    assert (code, err) == (0, "")
    assert out.count("reads it as written") == 6
    assert "nothing is wrong" in out


def test_warnings_are_no_errors(capsys, written):
    code, out, err = call(capsys, written(NESTED))
    assert (code, err) == (0, "")
    assert "transformers-4" in out
    assert "transformers 4 does not read rope_parameters: rope_theta, the scaling there is lost." in out
    assert "warning: " in out
    assert "[lost-in-version-4] --fix repairs it." in " ".join(out.split())


def test_a_sick_model_and_its_repair(capsys, written, tmp_path):
    folder = written(FLAT)
    code, out, err = call(capsys, folder, "--fix", tmp_path / "healed")
    assert (code, err) == (1, "")
    assert out.index("error: ") < out.index("warning: ")
    assert f"repaired: {tmp_path / 'healed' / 'config.json'}" in out.replace("\n", "")
    code, out, err = call(capsys, tmp_path / "healed")
    assert (code, err) == (0, "")


def test_json(capsys, written, tmp_path):
    folder = written(FLAT)
    code, out, err = call(capsys, folder, "--json", "--fix", tmp_path / "new.json")
    data = json.loads(out)
    assert (code, err) == (1, "")
    assert data["sick"] is True
    assert data["written"] == str(tmp_path / "new.json")
    assert set(data["engines"]) == {"transformers-5", "transformers-4", "vllm", "sglang", "mlx", "llama.cpp"}
    assert data["engines"]["transformers-5"]["as_written"] is False
    assert data["findings"][0]["code"] == "flat-parameters"
    assert set(data["findings"][0]["fix"]["rope_parameters"]) == {"full_attention", "sliding_attention"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/model"], "no/such/model: no such file"),
        ([], "Missing argument"),
    ],
)
def test_mistakes(capsys, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_nothing_to_repair_and_what_is_there_already(capsys, written, tmp_path):
    folder = written(LLAMA)
    assert call(capsys, folder, "--fix", tmp_path / "out")[0] == 2
    assert "exists already" in call(capsys, folder, "--fix", folder)[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
