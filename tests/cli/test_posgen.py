import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resrope.cli import main
from resrope.posgen.settings import DATA
from resrope.posgen.store import read_splits

SMALL = "train_rows=60 validation_rows=12 test_rows=10 train_length=12 test_length=24".split()
TINY = [*SMALL, *"d_model=16 n_heads=2 head_dim=8 d_ff=32 n_layers=1 epochs=2 batch_size=16 looks=2".split()]


def sets(pairs):
    return [part for pair in pairs for part in ("--set", pair)]


def output(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    return out


def test_rules(capsys):
    asked = ["posgen", "rules", "--task", "cot,semi-recursive", "--h", "sum", "--set", "test_length=128"]
    table = output(capsys, *asked)
    assert "positions 64 – 127" in table
    assert re.search(r"Semi-recursive, sum +52.9", table)
    told = json.loads(output(capsys, *asked, "--json"))
    assert [(one["task"], one["far_dependent"]) for one in told] == [
        ("cot", False),
        ("semi-recursive", False),
    ]
    assert told[1]["windows"]["16"] == pytest.approx(0.765, abs=2e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--h", "median"], "h must be one of sum, latin, product, lookup, bit, got 'median'"),
        (["--task", "induction"], "task must be one of recursive, cot, semi-recursive, got 'induction'"),
        (["--h", "product", "--set", "modulus=15"], "h = product must have a prime modulus, got 15"),
        (["--set", "epochs=2"], f"--set epochs changes no sequence; {', '.join(DATA)} do"),
    ],
)
def test_rules_of_what_there_is_not(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["posgen", "rules", *words])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_run_that_ends_what_is_settled(capsys, tmp_path, monkeypatch):
    """What was right is planted: of four seeds Resonance needs two."""
    from resrope.posgen import runner, settled
    from resrope.posgen.cell import run_cell

    def here(out, cells, settings, *, finished, **rest):
        for cell in cells:
            finished(cell, run_cell(out, cell, settings))

    monkeypatch.setattr(runner, "run_matrix", here)

    def planted(out, cell, plain=settled.read_record):
        record = plain(out, cell)
        part = {"rows": 10, "correct_by_position": [0] * 12 + [2 + 5 * ("resonance" in cell.method)] * 12}
        return record and {**record, "last": part, "best": part}

    monkeypatch.setattr(settled, "read_record", planted)
    out = tmp_path / "run"
    asked = ["posgen", "run", "--task", "cot", "--method", "rope,resonance-rope,none", "--out", str(out)]
    asked += ["--seeds", "0,1,2,3", "--jobs", "1", "--json", *sets(TINY)]
    with pytest.raises(SystemExit) as caught:
        main([*asked, "--stop-when-settled"])
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == [0, 1, 2, 3]
    assert [(v["method"], v["seeds"]) for v in told["settled"]] == [("rope", [0, 1])]
    assert len(list(out.glob("cells/cot-none-*"))) == 4
    assert len(list(out.glob("cells/cot-*rope-*"))) == 4
    with pytest.raises(SystemExit):
        main(asked)  # without the option the missing seeds are run
    assert json.loads(capsys.readouterr().out)["settled"] == []
    assert len(list(out.glob("cells/*/record.json"))) == 12


def test_generate(capsys, tmp_path):
    out = tmp_path / "data"
    command = ["posgen", "generate", "--task", "cot", "--out", str(out), *sets(SMALL)]
    assert "train 60 × 12, validation 12 × 24, test 10 × 24; written" in output(capsys, *command)
    assert "already there, nothing written" in output(capsys, *command)
    task, splits = read_splits(out)
    assert task.name == "cot"
    assert splits.test.shape == (10, 24)
    manifest = json.loads(output(capsys, *command, "--json"))
    assert manifest["splits"]["train"]["rows"] == 60
    with pytest.raises(SystemExit) as caught:
        main([*command, "--seed", "1"])
    assert caught.value.code == 2
    assert "other settings (seed" in capsys.readouterr().err


def test_show(capsys, tmp_path):
    picture = tmp_path / "figure2.png"
    out = output(capsys, *"posgen show --task cot --position 5 --prefix 1,2,3,4 --plot".split(), str(picture))
    assert "x_5 = (x_0 + x_2 + x_3 + x_4) mod 7 = (1 + 3 + 4 + 3) mod 7 = 4" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert output(capsys, "posgen", "show").count(" mod 7 = ") == 6
    product = output(capsys, "posgen", "show", "--task", "cot", "--h", "product", "--prefix", "0,4,1,5")
    assert "x_12 = product(x_0, x_9, x_10, x_11) = product(0, 3, 6, 2) = 1" in product  # 0·3 + 6 + 2 mod 7
    drawn = {output(capsys, "posgen", "show", "--h", "lookup", "--h-seed", seed) for seed in "01"}
    assert len(drawn) == 2


def test_run_report_and_run_again(tmp_path):
    """As a user would, in processes of their own."""
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        "from resrope.cli import main; main()",
        "posgen",
        "run",
        "--out",
        str(out),
    ]
    command += ["--task", "cot", "--method", "rope,resonance-rope", "--seeds", "0,1", *sets(TINY)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Table 1: accuracy beyond the training length (2 seeds)" in first.stdout
    assert first.stdout.count("% in distribution, ") == 4
    for name in ("report.html", "report.md", "report.json", "training.png", "positions.png"):
        assert str(out / name) in first.stdout.replace("\n", "")
        assert (out / name).stat().st_size > 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("record.json")}
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["seeds"] == [0, 1]
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("record.json")}
    other = subprocess.run([*command, "--set", "dropout=0.2"], capture_output=True, text=True)
    assert other.returncode == 2
    assert "holds a run of other settings: dropout 0.0 (asked for 0.2)" in other.stderr


extreme = st.one_of(
    st.integers(-(2**70), 2**70).map(str), st.sampled_from(["", "x", "nan", "1e400", "null", "[1]", "true"])
)
shown = st.dictionaries(
    st.sampled_from(["--position", "--modulus", "--j", "--k", "--prefix", "--seed"]), extreme
)
changed = st.dictionaries(
    st.sampled_from(["j", "k", "modulus", "test_length", "train_length", "h", "factor", "original_length"]),
    extreme,
    min_size=1,
)


@given(options=shown, task=st.sampled_from(["cot", "recursive", "", "x", "cot,semi-recursive"]))
@settings(max_examples=100)
def test_no_arguments_of_show_reach_a_traceback(options, task):
    with pytest.raises(SystemExit) as caught:
        main(["posgen", "show", "--task", task, *(f"{k}={v}" for k, v in options.items())])
    assert caught.value.code in (0, 2)


@given(changes=changed)
@settings(max_examples=100)
def test_no_settings_of_a_run_reach_a_traceback(changes):
    """With an unknown method behind them, so that no run begins: exit code 2, nothing made."""
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "posgen",
                "run",
                "--out",
                "never-made",
                "--method",
                "x",
                *sets(f"{k}={v}" for k, v in changes.items()),
            ]
        )
    assert caught.value.code == 2


def test_audit_of_what_is_finished(capsys, tmp_path):
    """Every cell is there already, or in a rung that is the same for it, so that nothing is trained."""
    from resrope.cli.values import assignments
    from resrope.posgen.cell import run_cell
    from resrope.posgen.presets import preset
    from resrope.posgen.record import Cell, read_record
    from resrope.posgen.report.audit import alone, open_all

    rungs = alone(preset("quick").override(assignments(TINY)))
    cell, unmoved = Cell(task="cot", method="rope", seed=0), ("scaling", "ramp", "factor")
    folders = open_all(tmp_path, "quick", rungs)
    for folder, rung in zip(folders, rungs, strict=True):
        if rung.name not in unmoved:
            run_cell(folder, cell, rung.settings)
    asked = ["posgen", "audit", "--alone", "--preset", "quick", "--task", "cot", "--method", "rope"]
    asked += ["--out", str(tmp_path), *sets(TINY)]
    with pytest.raises(SystemExit) as caught:
        main(asked)
    out, err = capsys.readouterr()
    assert caught.value.code == 0
    assert "CoT: OOD accuracy, %" in out
    accuracies, changes = out.split("CoT: ")[1:3]
    for told, those in ((accuracies, rungs), (changes, rungs[1:])):
        assert re.findall(r"^  (\S+) +-?\d+\.\d", told, re.MULTILINE) == [r.name for r in those]
    assert "From the first setting, paired by seed" in changes
    made = {r.name: read_record(f, cell)["made"] for f, r in zip(folders, rungs, strict=True)}
    assert {n for n in made if made[n].get("taken_from") == "0-paper"} == {*unmoved}
    assert "- 9 cells, 3 of them those of a rung above, " in (tmp_path / "audit.md").read_text()
    assert err.count("taken from rungs above: 1 of 1") == 3
    assert f"{tmp_path / '8-checkpoint'} (9 of 9)" in err
    with pytest.raises(SystemExit) as caught:
        main([*asked[:2], *asked[3:]])  # the ladder, in the folder of switches thrown alone
    assert caught.value.code == 2


MINE = """
import torch
from resrope.posgen.positions import PositionEmbedding
class Mine(PositionEmbedding):
    def input(self, positions):
        return torch.ones(len(positions), self.sizes.d_model - {less})
"""


@pytest.mark.parametrize("less", [0, 1])
def test_a_users_own_embedding_in_worker_processes(tmp_path, less):
    (tmp_path / "mine.py").write_text(MINE.format(less=less))
    words = ["-m", "resrope", "posgen", "run", "--task", "cot", "--embedding", "mine:Mine", "--out", "run"]
    done = subprocess.run(
        [sys.executable, *words, "--json", *sets(TINY)], cwd=tmp_path, capture_output=True, text=True
    )
    if less:
        assert done.returncode == 2
        assert done.stderr == (
            "error: mine:Mine, of 11 tokens: "
            "input must be torch.float32 [11, 16], got torch.float32 [11, 15]\n"
        )
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run" / "cells" / "cot-mine.Mine-seed0" / "record.json").is_file()


def test_a_result_handed_in_checked_and_shown(capsys, tmp_path):
    from resrope.cli.values import assignments
    from resrope.posgen.cell import run_cell
    from resrope.posgen.presets import preset
    from resrope.posgen.record import Cell, open_run

    run, settings = tmp_path / "run", preset("quick").override(assignments(TINY))
    open_run(run, "quick", settings)
    run_cell(run, Cell(task="cot", method="rope", seed=0), settings)
    file = run / "result.json"
    submitted = output(capsys, "posgen", "submit", str(run), "--title", "Mine", "--by", "Me")
    assert submitted == f"{file}: 1 cells\n"
    assert output(capsys, "posgen", "validate", str(file)) == f"{file}: Mine, 1 cells, valid\n"
    assert json.loads(output(capsys, "posgen", "validate", str(tmp_path), "--json"))[0]["cells"] == 1
    page = tmp_path / "board.html"
    output(capsys, "posgen", "board", str(tmp_path), "--out", str(page))
    assert "Mine" in page.read_text()
    file.write_text(file.read_text().replace("result-1", "result-9"))
    for words in (
        ["validate", str(file)],
        ["board", str(file), "--out", str(page)],
        ["board", str(tmp_path), "--out", "x.pdf"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(["posgen", *words])
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
