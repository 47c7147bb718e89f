import json
import random
import string

import pytest

from resrope.cli import main


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    for name, size in (("short", 700), ("long", 1100), ("longer", 1300)):
        (tmp_path / f"{name}.txt").write_text("".join(draw.choices(string.ascii_lowercase, k=size)))


@pytest.fixture
def call(capsys, letters):
    def run(arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["compare", str(letters), *arguments.split()])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def test_every_method_is_set_against_the_unchanged_model(call):
    code, out, err = call("--target 1024 --text . --method yarn,resonance-yarn --depths none --json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["methods"]) == ["own", "yarn", "resonance-yarn"]
    assert found["perplexity"]["lengths"] == [256, 512, 1024]
    assert sorted(found["perplexity"]["texts"]) == ["long.txt", "longer.txt"]  # short.txt does not reach
    own, yarn = (found["perplexity"]["methods"][k]["by_length"]["512"] for k in ("own", "yarn"))
    told = found["methods"]["yarn"]
    assert told["short"]["512"]["ratio"] == pytest.approx(yarn / own)
    assert found["methods"]["own"]["short"]["512"]["ratio"] == 1.0
    assert f"× {told['beyond_ratio']:.2f}" in told["verdict"]
    assert told["beyond_ratio"] == pytest.approx(told["beyond"] / told["reference"])
    assert found["conclusion"].startswith(("Worth it", "A compromise", "Not worth it"))
    assert found["passkey"] is None


def test_table_and_page(call, tmp_path):
    code, out, err = call("--target 1024 --text long.txt --depths none --out made")
    assert code == 0, err
    assert "Verdicts" in out
    assert "What it costs on short texts" in out
    page = (tmp_path / "made" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "is it worth it?" in page


def test_what_cannot_be_asked_later_is_said_before_anything_is_read(call, tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("a text was read")

    monkeypatch.setattr("resrope.longtext.perplexity.token_losses", read)
    (tmp_path / "leval").mkdir()
    (tmp_path / "leval" / "tpo.jsonl").write_text("{}\n")
    code, _, err = call("--target 1024 --text . --leval leval")
    assert (code, err.count("\n")) == (2, 1)
    assert "tpo.jsonl" in err
    code, _, err = call(
        "--target 1024 --text . --depths 0.5"
    )  # half of 512 holds the sentences, not the task
    assert (code, err.count("\n")) == (2, 1)
    assert "passkeys need at least" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--target 512 --text .", "target must lie beyond the 512 tokens that the model serves, got 512"),
        ("--target 4096 --text .", "no text has 4096 tokens"),
        ("--target 1024", "--text must be given"),
        ("--target 1024 --text . --depths 0.5,x", "--depths takes how many"),
        ("--target 1024 --text . --depths 2.5", "depths must be from 0 to 1"),
        ("--target 1024 --text . --documents 5", "from 1 to the 2"),
        ("--target 1024 --text . --leval .", "must be a folder with coursera.jsonl"),
        ("--target 1024 --text . --method own", "got own alone"),
        ("--text .", "--target"),
        ("--target 516 --text .", "target must lie further beyond the 512 tokens"),
        ("--target 1024 --text . --limit 3", "--limit is of L-Eval's questions"),
        ("--target 1024 --text . --depths none --trials 2", "--trials is of passkeys"),
        ("--target 1024 --text . --trials 0", "trials must be an integer >= 1"),
    ],
)
def test_mistakes(call, arguments, words):
    code, out, err = call(arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
