import json
import re
import shutil
import sys

import pytest
import torch
from tests.posgen.conftest import TINY

from resrope.posgen.cell import run_cell
from resrope.posgen.model import Decoder
from resrope.posgen.positions import rotated
from resrope.posgen.record import Cell, cell_folder, open_run, read_records, read_run
from resrope.posgen.report.page import write_report
from resrope.posgen.report.window import (
    grid,
    limited,
    read_every_retested,
    read_retested,
    retest,
    retest_run,
    window_file,
)
from resrope.posgen.settings import Settings
from resrope.posgen.work import trained

CELLS = [
    Cell(task=task, method=method, seed=0)
    for task in ("cot", "semi-recursive")
    for method in ("rope", "alibi")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four cells of two layers, with a token before the sequence; one embedding turns, one adds to scores."""
    folder = tmp_path_factory.mktemp("run")
    settings = Settings().override({**TINY, "n_layers": 2, "eos_prefix": True, "dropout": 0.0})
    open_run(folder, "quick", settings)
    for cell in CELLS:
        run_cell(folder, cell, settings)
    return folder


def test_heads_see_the_last_tokens_and_no_others(tiny):
    model = Decoder(tiny.override({"dropout": 0.0}).model, seed=0)
    ids = torch.randint(0, 17, (2, 9), generator=torch.Generator().manual_seed(0))
    angles = torch.rand(9, 4)
    where = rotated(angles.cos(), angles.sin(), 2)
    weights = model.attention(ids, limited(where, 3, 2))
    back = torch.arange(9)[:, None] - torch.arange(9)
    assert (weights[..., (back >= 3) | (back < 0)] == 0).all()
    assert (weights[..., (back >= 0) & (back < 3)] > 0).all()
    with_first = model.attention(ids, limited(where, 3, 2, first=1))
    assert ((with_first > 0) == ((back >= 0) & ((back < 3) | (torch.arange(9) == 0)))).all()
    torch.testing.assert_close(model(ids, limited(where, 9, 2)), model(ids, where))


def test_what_an_embedding_adds_to_the_scores_stays(run):
    work, _ = trained(run, CELLS[1])
    where = work.where(9)
    seen = limited(where, 4, 2)
    inside = (torch.arange(9)[:, None] - torch.arange(9)) < 4
    assert torch.equal(seen.bias[:, inside], where.bias[:, inside])
    assert torch.isinf(seen.bias[:, ~inside]).all()


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_window_as_long_as_the_sequence_changes_nothing(run, cell):
    last = trained(run, cell)[1]["last"]
    assert retest(run, cell, 25).correct == last["correct_by_position"]
    assert retest(run, cell, 2).correct != last["correct_by_position"]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_with_the_first_token_in_sight(run, cell):
    """The last of 24 tokens that are read sees all but the first one where 23 are seen, and all with it."""
    last = trained(run, cell)[1]["last"]
    assert retest(run, cell, 23, first=1).correct == last["correct_by_position"]
    assert retest(run, cell, 2, first=1).correct != retest(run, cell, 2).correct


def test_one_token_is_less_than_the_task_takes(run):
    """Each of two layers sees one token: what the model reads is the last one alone."""
    work, _ = trained(run, CELLS[0])
    changed = work.test.clone()
    changed[:, 3:20] = (changed[:, 3:20] + 1) % 17
    model, where = work.trainer.model, limited(work.where(24), 1, 2)
    with torch.no_grad():
        assert torch.equal(model(work.test[:, :24], where)[:, 20:], model(changed[:, :24], where)[:, 20:])


def test_a_run_and_its_table(run):
    told = []
    found = retest_run(run, done=told.append)
    assert found == told == read_retested(run)
    assert [one.tokens for one in found] == [12] * 4  # eleven, and the one before the sequence
    kept = json.loads(window_file(run).read_text())
    assert kept["made"]["torch"] == torch.__version__
    records = read_records(run)
    table = grid(read_run(run)[1], records, found)
    assert [row[0] for row in table.rows][:3] == ["CoT, RoPE", "CoT, ALiBi", "CoT, rules on 5 tokens"]
    assert found[1].cell == CELLS[0]
    rows = records[1]["last"]["rows"]
    for column, correct in ((3, records[1]["last"]["correct_by_position"]), (4, found[1].correct)):
        assert table.rows[0][column] == f"{100 * sum(correct[12:]) / rows / 12:.1f}"
    assert table.rows[3][4] == "–"  # rules on 16 tokens, of which a head sees 12
    page = write_report(run)[1]["report.md"].read_text()
    assert table.title in page
    assert " | ".join(table.rows[0]) in page


def test_both_cuts_stand_side_by_side(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    cut, with_first = retest_run(folder, 12), retest_run(folder, 12, first=1)
    assert [read_retested(folder), read_retested(folder, 1)] == [cut, with_first]
    page = write_report(folder)[1]["report.md"].read_text()
    titles = [line for line in page.splitlines() if line.startswith("## Tested again")]
    assert [t.removeprefix("## Tested again with heads that see ") for t in titles] == [
        "the last 12 tokens",
        "the last 12 tokens and the first",
    ]


def test_a_file_that_is_not_of_the_run(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    retest_run(folder, 12)
    told = json.loads(window_file(folder).read_text())
    first, *others = told["cells"]
    for broken in (
        "[1]",
        "{",
        "{}",
        json.dumps({**told, "cells": [{"cell": {}}]}),
        json.dumps({**told, "cells": [{**first, "correct": ["many"]}, *others]}),
        json.dumps({**told, "cells": [{**first, "correct": [999] * 24}, *others]}),
        json.dumps({**told, "cells": [{**first, "tokens": 8}, *others]}),
    ):
        window_file(folder).write_text(broken)
        with pytest.raises(ValueError, match=r"window\.json"):
            read_retested(folder)
    window_file(folder).unlink()
    window_file(folder, 1).write_text(json.dumps(told))  # of none of the first tokens
    with pytest.raises(ValueError, match=r"window-first1\.json is not what resrope wrote; delete it"):
        read_retested(folder, 1)
    window_file(folder, 1).rename(folder / "window-old.json")
    assert read_every_retested(folder) == []
    shutil.rmtree(folder / "cells" / CELLS[2].name)
    window_file(folder).write_text(json.dumps(told))
    assert {one.cell for one in read_retested(folder)} == {*CELLS} - {CELLS[2]}


def test_a_run_that_has_grown_since(run, tmp_path):
    """A report is written all the same, and says of how many cells the table is."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "cells" / CELLS[2].name)
    retest_run(folder)
    shutil.copytree(run / "cells" / CELLS[2].name, folder / "cells" / CELLS[2].name)
    assert (
        "3 of the run's 4 cells, of seeds 0, after the last step"
        in write_report(folder)[1]["report.md"].read_text()
    )


def test_what_was_tested_of_cells_without_weights_stays(run, tmp_path):
    """A kept run has none, and takes more seeds."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    window_file(folder).unlink(missing_ok=True)
    (cell_folder(folder, CELLS[0]) / "last.safetensors").unlink()
    shutil.copytree(run, tmp_path / "whole")
    whole = retest_run(tmp_path / "whole")
    assert retest_run(folder) == [one for one in whole if one.cell != CELLS[0]]
    shutil.copy(window_file(tmp_path / "whole"), folder)
    assert retest_run(folder) == whole
    assert json.loads(window_file(tmp_path / "whole").read_text())["earlier"] == []
    first = json.loads(window_file(folder).read_text())
    assert [made["torch"] for made in first["earlier"]] == [torch.__version__]
    retest_run(folder)
    assert json.loads(window_file(folder).read_text())["earlier"] == [first["made"], *first["earlier"]]
    with pytest.raises(ValueError, match=r"tokens must be 12, as for the cells in window.json whose weights"):
        retest_run(folder, 3)
    assert read_retested(folder) == whole
    window_file(folder).unlink()
    for cell in CELLS:
        (cell_folder(folder, cell) / "last.safetensors").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="run has no weights; a kept run has none"):
        retest_run(folder, 4)


def test_cells_that_were_not_tested_are_said(run, tmp_path, capsys):
    from resrope.cli import main

    shutil.copytree(run, tmp_path / "run")
    (cell_folder(tmp_path / "run", CELLS[0]) / "last.safetensors").unlink()
    with pytest.raises(SystemExit) as caught:
        main(["posgen", "window", str(tmp_path / "run"), "--first", "1"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert "1 of 4 cells have no weights here: not tested" in err
    assert "and the first" in out


def test_what_is_not_there(run, tmp_path, tiny):
    with pytest.raises(ValueError, match="tokens must be an integer >= 1"):
        retest_run(run, 0)
    open_run(tmp_path, "quick", tiny)
    with pytest.raises(ValueError, match="no finished cell yet"):
        retest_run(tmp_path)


def test_a_class_that_has_changed_since(tiny, tmp_path, monkeypatch):
    module = tmp_path / "mine_that_changes.py"
    code = (
        "from resrope.posgen.positions import PositionEmbedding\nclass Mine(PositionEmbedding):\n    pass\n"
    )
    module.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    cell = Cell(task="cot", method="mine_that_changes:Mine", seed=0)
    open_run(tmp_path / "run", "quick", tiny)
    run_cell(tmp_path / "run", cell, tiny)
    assert retest(tmp_path / "run", cell, 4).cell == cell
    module.write_text(code + "# changed\n")
    del sys.modules["mine_that_changes"]
    with pytest.raises(ValueError, match="its file was changed since"):
        retest(tmp_path / "run", cell, 4)


def test_the_command(run, capsys):
    from resrope.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["posgen", "window", str(run), "--tokens", "8", "--json"])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 8
    with pytest.raises(SystemExit):
        main(["posgen", "window", str(run), "--tokens", "8", "--first", "-1"])
    assert "first must be an integer >= 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["posgen", "window", str(run), "--tokens", "900", "--first", "3"])
    assert re.search(r"tokens and first must leave some of \d+ tokens out, got 900", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["posgen", "window", str(run), "--tokens", "8"])
    assert "Tested again with heads that see the last 8 tokens" in capsys.readouterr().out
