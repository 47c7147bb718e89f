import json

import pytest
import torch
from tests.posgen.conftest import TINY

from resrope.posgen.cell import run_cell, trained
from resrope.posgen.model import Decoder
from resrope.posgen.page import write_report
from resrope.posgen.positions import rotated
from resrope.posgen.record import Cell, open_run, read_run
from resrope.posgen.settings import Settings
from resrope.posgen.window import FILE, Retested, grid, limited, retest, retest_run

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
    found = retest(run, cell, 25)
    assert found.after == found.before
    assert found.rows == trained(run, cell)[1]["last"]["rows"]


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
    assert found == told
    assert [one.tokens for one in found] == [13] * 4  # twelve, and the one before the sequence
    assert json.loads((run / FILE).read_text())[0]["after"] == found[0].after
    table = grid(read_run(run)[1], found)
    assert [row[0] for row in table.rows][:3] == ["CoT, ALiBi", "CoT, RoPE", "CoT, rules on 5 tokens"]
    rope = found[1]
    assert rope.cell == CELLS[0]
    beyond = sum(rope.after[12:]) / rope.rows / 12
    assert table.rows[1][4] == f"{100 * beyond:.1f}"
    page = write_report(run)[1]["report.md"].read_text()
    assert table.title in page
    assert " | ".join(table.rows[1]) in page


def test_by_hand(tiny):
    right = [0] * 12 + [5] * 12
    found = [Retested(cell=CELLS[0], tokens=12, rows=10, before=[0] * 24, after=right)]
    row = grid(tiny, found).rows[0]
    assert (row[3], row[4]) == ("0.0", "50.0")


def test_what_is_not_there(run, tmp_path, tiny):
    with pytest.raises(ValueError, match="tokens must be an integer >= 1"):
        retest_run(run, 0)
    open_run(tmp_path, "quick", tiny)
    with pytest.raises(ValueError, match="no finished cell yet"):
        retest_run(tmp_path)


def test_the_command(run, capsys):
    from resrope.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["posgen", "window", str(run), "--tokens", "8", "--json"])
    assert caught.value.code == 0
    assert {one["tokens"] for one in json.loads(capsys.readouterr().out)} == {8}
    with pytest.raises(SystemExit):
        main(["posgen", "window", str(run), "--tokens", "8"])
    assert "Tested again with heads that see the last 8 tokens" in capsys.readouterr().out
