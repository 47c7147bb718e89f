import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from resrope.posgen.cell import run_cell
from resrope.posgen.model import Decoder
from resrope.posgen.positions import Where, rotated
from resrope.posgen.record import Cell, open_run, read_tensors
from resrope.posgen.report.attention import drawn, grid, look
from resrope.posgen.work import prepared

CELL = Cell(task="semi-recursive", method="alibi", seed=0)


@pytest.fixture
def run(tiny, tmp_path):
    tiny = tiny.override({"n_layers": 2, "eos_prefix": True, "dropout": 0.0})
    open_run(tmp_path, "quick", tiny)
    run_cell(tmp_path, CELL, tiny)
    return tmp_path, tiny


def test_weights_are_those_that_the_forward_uses(tiny):
    """Of one layer: the weights times the values, through the output matrix, are what attention adds."""
    settings = tiny.override({"dropout": 0.0})
    model = Decoder(settings.model, seed=0)
    ids = torch.randint(0, 17, (2, 9), generator=torch.Generator().manual_seed(0))
    angles = torch.rand(9, 4)
    where = rotated(angles.cos(), angles.sin(), 2)
    weights = model.attention(ids, where)
    assert weights.shape == (1, 2, 2, 9, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 2, 9))
    assert torch.equal(weights, weights.tril())
    layer = model.layers[0]
    layer.wo.data.zero_()
    x = model.embedding[ids]
    unit = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * layer.attention_norm
    values = (unit @ layer.qkv[32:].T).view(2, 9, 2, 8).transpose(1, 2)
    x = x + (weights[0] @ values).transpose(1, 2).reshape(2, 9, 16) @ layer.o.T
    out = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * model.final_norm
    torch.testing.assert_close(model(ids, where), out * 16**-0.5 @ model.embedding.T)


def test_weight_on_the_front_token_by_hand(run):
    """Against the model's own maps, token by token, with one more token before the sequence."""
    folder, settings = run
    looked = look(folder, CELL, rows=3)
    work = prepared(CELL, settings)
    work.trainer.load(read_tensors(folder / "cells" / CELL.name / "last.safetensors")[0])
    with torch.no_grad():
        weights = work.trainer.model.attention(work.test[:3, :-1], work.where(24)).mean(1)
    for position in (4, 9, 12, 23):
        front = work.task.sources(position)[0]
        wanted = weights[:, :, position, 1 + front]  # the token before the sequence shifts both by one
        assert torch.allclose(torch.from_numpy(looked.weight[:, :, position]).float(), wanted, atol=1e-6)
        assert looked.distance[position] == position - front
    assert looked.weight.shape == (2, 2, 24)
    assert (looked.weight[:, :, :4] == 0).all()
    assert looked.maps.shape == (2, 2, 24, 24)
    assert np.array_equal(np.flatnonzero(looked.far), np.arange(4, 24))  # none is far at this length


def test_a_head_that_looks_at_the_front_alone_has_all_weight_there(run):
    _, settings = run
    work = prepared(CELL, settings)
    bias = torch.full((2, 24, 24), -1e4)
    for position in range(4, 24):
        bias[:, position, 1 + work.task.sources(position)[0]] = 0.0
    where = Where(rotated(torch.ones(24, 4), torch.zeros(24, 4), 2).turns, None, bias)
    weights = work.trainer.model.attention(work.test[:2, :-1], where)
    for position in (5, 17):
        assert math.isclose(weights[0, 0, 0, position, 1 + work.task.sources(position)[0]], 1.0, rel_tol=1e-5)


def test_table_and_picture(run):
    looked = look(run[0], CELL)
    table = grid(looked)
    assert [row[0] for row in table.rows][-2:] == ["layer 1, head 1", "right answers"]
    beyond = looked.weight[1, 1, 12:].mean()
    assert table.rows[3][2] == f"{100 * beyond:.1f}"
    maps = looked.maps[1, 1]
    nearby = np.mean([maps[p, p - 5 : p].sum() for p in range(12, 24)])
    assert table.rows[3][4] == f"{100 * nearby:.1f}"
    unmet = np.mean([maps[p, : p - 12].sum() for p in range(12, 24)])  # position 11 reads 12 back: the first
    assert table.rows[3][5] == f"{100 * unmet:.1f}"
    outside = np.mean([1 - maps[p].sum() for p in range(12, 24)])
    assert table.rows[3][6] == f"{100 * outside:.1f}"
    assert table.header[1:] == [
        "front, below 12",
        "front, beyond",
        "last 5, below 12",
        "last 5, beyond",
        "13 and more back, beyond",
        "before the sequence, beyond",
    ]
    assert f"{100 * np.mean(1 / np.arange(12, 24)):.1f}" in table.note
    assert sum(axis.get_visible() for axis in drawn(looked).axes) == 7
    with pytest.raises(ValueError, match="holds no finished cell cot-rope-seed7"):
        look(run[0], Cell(task="cot", method="rope", seed=7))


def test_accuracy_is_drawn_over_what_varies(run):
    def accuracy(of):
        (axis,) = (axis for axis in drawn(of).axes if axis.get_ylabel() == "accuracy (%)")
        return axis

    looked = look(run[0], CELL)
    assert accuracy(looked).get_xlabel() == "distance to the front token"
    axis = accuracy(replace(looked, cell=replace(CELL, task="recursive")))
    assert axis.get_xlabel() == "position"
    assert axis.lines[0].get_xdata().tolist() == list(range(4, 24))


def test_weight_by_distance_by_hand(run):
    looked = look(run[0], CELL)
    assert looked.by_distance.shape == (2, 2, 24)
    assert (looked.by_distance[:, :, 0] == 0).all()
    for d in (1, 5, 20):
        wanted = np.mean([looked.maps[0, 1, p, p - d] for p in range(max(12, d), 24)])
        assert looked.by_distance[0, 1, d] == pytest.approx(wanted)
    everything = looked.reached(1, 24, looked.distance > 0)
    assert everything == pytest.approx(looked.maps[:, :, 4:].sum(-1).mean(-1))


def test_the_command(run, capsys):
    from resrope.cli import main

    folder = run[0]
    words = ["posgen", "attention", str(folder), "--task", CELL.task, "--method", CELL.method]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--json", "--plot", str(folder / "maps.png")])
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert np.array(told["weight"]).shape == np.array(told["by_distance"]).shape == (2, 2, 24)
    assert (folder / "maps.png").read_bytes().startswith(b"\x89PNG")
