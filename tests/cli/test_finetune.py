import json

import pytest

from resrope.cli import main


@pytest.fixture
def text(prose, tmp_path):
    (tmp_path / "text.txt").write_text(prose(0, 1000))
    return tmp_path / "text.txt"


def command(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    out = capsys.readouterr()
    return stopped.value.code, out.out, out.err


def test_a_run_prints_what_it_does(letters, text, tmp_path, capsys):
    line = f"finetune {letters} {tmp_path}/out --method resonance-yarn --factor 4 --text {text} --length 64"
    more = f" --chunk 32 --steps 2 --cache {tmp_path}/cache --cpu --json"
    code, out, err = command(line + more, capsys)
    assert code == 0
    record = json.loads(out)
    assert record["recipe"]["parameters"] == {"factor": 4.0}
    assert "steps 2 × sequences 1 (processes 1 × batch 1 × accumulation 1) × tokens 64: 128 tokens" in err
    assert "step 2/2  loss " in err
    assert "tokens/s" in err
    code, out, err = command(line + more, capsys)
    assert code == 0
    assert json.loads(out) == record
    assert "finished already" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--length 64 --chunk 16", "--steps must be given"),
        ("", "--length and --steps must be given"),
        ("--length 64 --steps 2", "length must be >= chunk (512 positions of the loss), got 64"),
        ("--length 64 --steps 2 --chunk 16 --factor 2", "factor must come with a method"),
        ("--length 64 --steps 2 --chunk 16 --tokens 1M --accumulation 2", "--tokens sets --accumulation"),
        ("--length 64 --steps 2 --chunk 16 --tokens many", "--tokens takes a number >= 1"),
        ("--recipe llama3", "--recipe must be one of llama2-7b-32k, llama2-7b-4k"),
        ("--length 64 --steps 2 --chunk 16 --method yearn", "yearn"),
        ("--length 64 --steps 999 --chunk 16", "epochs; more text, fewer --steps, or --repeat"),
        ("--length 64 --steps 2 --chunk 16 --method dynamic-ntk", "another table for every length"),
        ("--length 64 --steps 2 --chunk 16 --text nowhere.txt", "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(letters, text, tmp_path, capsys, options, words):
    line = f"finetune {letters} {tmp_path}/out --text {text} --cpu --cache {tmp_path}/cache {options}"
    code, out, err = command(line, capsys)
    assert code == 2
    assert out == ""
    assert words in err
    assert [row for row in err.splitlines() if "error" in row] == err.splitlines()[-1:]
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_another_length(letters, tmp_path, capsys):
    line = f"finetune {letters} {tmp_path}/out --recipe llama2-7b-4k --length 512 --dry-run --json --cpu"
    code, out, _ = command(line, capsys)
    assert code == 0
    rows = json.loads(out)
    assert {r["tuning"] for r in rows} == {"full", "lora", "qlora"}
    assert all(r["estimate"]["weights"] > 0 for r in rows)


def test_a_dry_run_prints_a_table_and_writes_nothing(letters, tmp_path, capsys):
    line = f"finetune {letters} {tmp_path}/out --length 1024 --steps 1 --dry-run --cpu"
    code, out, _ = command(line, capsys)
    assert code == 0
    assert "full, no checkpointing" in out
    assert "of 8 (FSDP)" in out
    assert not (tmp_path / "out").exists()


def test_tokens_settle_the_accumulation(letters, text, tmp_path, capsys):
    line = f"finetune {letters} {tmp_path}/out --text {text} --length 64 --chunk 16 --steps 2 --tokens 0.5k"
    code, _, err = command(f"{line} --cache {tmp_path}/cache --cpu", capsys)
    assert code == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert "steps 2 × sequences 4 (processes 1 × batch 1 × accumulation 4) × tokens 64: 512 tokens" in err
