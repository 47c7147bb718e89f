import json

import pytest

from resrope.cli import main

SHORT = ["--lengths", "512,1024", "--depths", "2", "--trials", "1"]


@pytest.fixture
def model(letters):
    return str(letters)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Exit code, standard output, standard error, as from a shell."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["passkey", *map(str, arguments)])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def failed(call, *arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def knowing(monkeypatch, model):
    """Finds every key within the 512 tokens of training; returns the lengths of the questions."""
    import re

    from transformers import AutoTokenizer

    from resrope.longtext import retrieval

    tokenizer, asked = AutoTokenizer.from_pretrained(model), []

    def answer(model, tokens, count, *, chunk, stop, progress):
        asked.append(len(tokens))
        progress(len(tokens))
        found = re.search(r"\d{5}", tokenizer.decode(tokens))
        return tokenizer(found[0] if len(tokens) < 512 else "unknown").input_ids

    monkeypatch.setattr(retrieval, "continuation", answer)
    return asked


def test_a_table_for_people(call, model, knowing):
    code, out, err = call(model, *SHORT, "--method", "own,yarn")
    assert (code, "error" in err) == (0, False)
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert ["512", "1024*"] in rows
    assert ["own", "100", "0"] in rows
    assert ["YaRN", "100", "0"] in rows
    assert rows.count(["at", "0", "%", "100", "0"]) == rows.count(["at", "100", "%", "100", "0"]) == 2
    assert (
        "Keys at every depth: 1; methods made for 1024 tokens. * beyond the 512 tokens of the model." in out
    )
    assert "*" not in call(model, "--lengths", "512", "--depths", "2")[1]


def test_json_alone_and_the_same_in_the_folder(call, model, knowing, tmp_path):
    code, out, _ = call(model, *SHORT, "--json", "--out", tmp_path / "new" / "run", "--target", "4096")
    data = json.loads(out)
    assert (code, data["target"], data["native_length"]) == (0, 4096, 512)
    assert data["methods"]["own"]["by_length"] == {"512": 1.0, "1024": 0.0}
    assert [cell["depth"] for cell in data["methods"]["own"]["grid"]] == [0.0, 1.0, 0.0, 1.0]
    assert json.loads((tmp_path / "new" / "run" / "passkey.json").read_text()) == data


def test_the_same_command_again_asks_nothing(call, model, knowing):
    first = call(model, *SHORT, "--json")
    assert len(knowing) == 4
    assert call(model, *SHORT, "--json")[:2] == first[:2]
    assert len(knowing) == 4
    call(model, *SHORT, "--json", "--dtype", "bfloat16")
    assert len(knowing) == 8


def test_a_real_run(call, model, tmp_path):
    code, out, _ = call(model, *SHORT, "--json", "--method", "resonance-yarn")
    assert (code, json.loads(out)["methods"]["resonance-yarn"]["accuracy"]) == (0, 0.0)
    kept = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "passkey" / "answers").iterdir()]
    assert sorted((one["length"], one["depth"]) for one in kept) == [(512, 0), (512, 1), (1024, 0), (1024, 1)]
    assert all(one["answer"] for one in kept)


def test_the_picture(call, model, knowing, tmp_path):
    for name in ("a.png", "b.svg"):
        code, out, _ = call(model, *SHORT, "--plot", name)
        assert (code, f"picture: {name}" in out) == (0, True)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "b.svg").read_bytes()


def test_ones_own_haystack(call, model, monkeypatch, tmp_path):
    from transformers import AutoTokenizer

    from resrope.longtext import retrieval

    tokenizer, read = AutoTokenizer.from_pretrained(model), []

    def answer(model, tokens, count, *, chunk, stop, progress):
        read.append(tokenizer.decode(tokens))
        return []

    monkeypatch.setattr(retrieval, "continuation", answer)
    (tmp_path / "a.txt").write_text("Call me Ishmael. Some years ago!")
    assert call(model, *SHORT, "--haystack", "a.txt")[0] == 0
    assert len(read) == 4
    assert all("Call me Ishmael. Some years ago! Call me Ishmael." in text for text in read)
    assert "no such file" in failed(call, model, *SHORT, "--haystack", "b.txt")


@pytest.mark.parametrize(
    ("depths", "found"),
    [("3", [0, 0.5, 1]), ("0.5", [0.5]), ("1,0,0.25", [0, 0.25, 1]), ("1.0", [1]), ("0,1,1", [0, 1])],
)
def test_depths(call, model, knowing, depths, found):
    data = json.loads(call(model, "--lengths", "512", "--depths", depths, "--trials", "1", "--json")[1])
    assert data["depths"] == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depths", "1"], "--depths takes how many (2 to 1000), or depths with a comma"),
        (["--depths", "a"], "--depths takes how many (2 to 1000), or depths with a comma"),
        (["--depths", ""], "--depths takes how many (2 to 1000), or depths with a comma"),
        (["--depths", "0.5,2"], "depths must be from 0 to 1, got 0.5, 2.0"),
        (["--depths", "nan,0.5"], "depths must be"),
        (["--lengths", "1k"], "--lengths takes integers"),
        (["--lengths", "64"], "passkeys need at least"),
        (["--trials", "0"], "trials must be an integer >= 1"),
        (["--method", "best"], "method must be among own, rope"),
        (
            ["--plot", "map.jpeg"],
            "--plot takes a .png, .svg, .pdf file in a folder that exists, got map.jpeg",
        ),
        (["--plot", "no/map.png"], "--plot takes a .png, .svg, .pdf file in a folder that exists"),
        (["--chat"], "the tokenizer has no chat template: leave --chat out"),
        (["--dtype", "int8"], "dtype must be among float32, bfloat16, float16"),
    ],
)
def test_mistakes_are_one_line(call, model, knowing, arguments, message):
    assert message in failed(call, model, *arguments)
    assert knowing == []


def test_a_model_that_is_not_there(call, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "tokenizer" in failed(call, "empty", *SHORT)
