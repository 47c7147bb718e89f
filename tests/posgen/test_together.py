import json

import pytest
import torch
from safetensors.torch import load_file

from resrope.posgen import together as groupwise
from resrope.posgen.batched import Batch, logits, stacked
from resrope.posgen.cell import run_cell
from resrope.posgen.model import Decoder
from resrope.posgen.positions import when_tested
from resrope.posgen.record import Cell, cell_folder
from resrope.posgen.runner import matrix, run_matrix
from resrope.posgen.together import Group, groups, run_group
from resrope.posgen.work import look_at, not_finite, prepared

CPU = torch.device("cpu")
# A rotation, a bias, weights of its own under a bias, a vector added, positions drawn at every step.
METHODS = ["resonance-yarn", "alibi", "fire", "learned", "randomised-rope"]
CELLS = tuple(Cell(task="cot", method=method, seed=seed) for seed, method in enumerate(METHODS))
GROUP = Group(cells=CELLS, batched=True)


def batch(cells):
    return Group(cells=tuple(cells), batched=True)


def single(cell):
    return Group(cells=(cell,), batched=False)


@pytest.fixture
def plain(tiny):
    return tiny.override({"dropout": 0.0})


def test_every_model_computes_what_it_computes_alone(plain):
    works = [prepared(cell, plain) for cell in CELLS]
    models = [work.trainer.model for work in works]
    wheres = [when_tested(work.trainer.position, 0)(11) for work in works]
    tokens = torch.stack([work.trainer.tokens[:3, :11] for work in works])
    weights = {
        name: torch.stack([dict(m.named_parameters())[name] for m in models])
        for name, _ in models[0].named_parameters()
    }
    made = logits(weights, plain.model, tokens, stacked(wheres, CPU), lambda x: x)
    for index, (model, where) in enumerate(zip(models, wheres, strict=True)):
        torch.testing.assert_close(made[index], model(tokens[index], where))


def numbers(record):
    return {k: record[k] for k in ("history", "last", "best", "embedding", "settings")}


@pytest.mark.parametrize("changes", [{}, {"train_feed_forward": False, "eos_prefix": True}])
def test_they_learn_what_each_learns_alone(plain, tmp_path, changes):
    settings = plain.override(changes)
    records = run_group(tmp_path / "group", GROUP, settings)
    for cell, record in zip(CELLS, records, strict=True):
        alone = run_cell(tmp_path / "alone", cell, settings)
        assert record["embedding"] == alone["embedding"]
        for one, other in zip(record["history"], alone["history"], strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
            assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-4)
        assert record["made"]["together"] == 5
        assert record["made"]["device"] == "cpu"
        assert "together" not in alone["made"]
        assert sorted(p.name for p in cell_folder(tmp_path / "group", cell).iterdir()) == [
            "best.safetensors",
            "last.safetensors",
            "record.json",
        ]
    assert not list((tmp_path / "group" / "together").iterdir())


def interrupted(out, settings, stop_after):
    def interrupt(steps):
        nonlocal left
        left -= steps
        if left < 0:
            raise KeyboardInterrupt

    left = stop_after
    with pytest.raises(KeyboardInterrupt):
        run_group(out, GROUP, settings, progress=interrupt)


@pytest.mark.parametrize("stop_after", [2, 22, 41])
def test_interrupted_it_ends_with_the_same_bits(tiny, tmp_path, stop_after):
    whole = run_group(tmp_path / "whole", GROUP, tiny)
    interrupted(tmp_path / "broken", tiny, stop_after)
    again = run_group(tmp_path / "broken", GROUP, tiny)
    assert list(map(numbers, again)) == list(map(numbers, whole))


def test_killed_between_two_records_the_first_stays(tiny, tmp_path, monkeypatch):
    whole = run_group(tmp_path / "whole", GROUP, tiny)
    finished = []

    def finish(out, work, plain=groupwise.finish):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(plain(out, work))
        return finished[-1]

    with monkeypatch.context() as patch:
        patch.setattr(groupwise, "finish", finish)
        with pytest.raises(KeyboardInterrupt):
            run_group(tmp_path / "broken", GROUP, tiny)
    (group,) = groups(tmp_path / "broken", CELLS, tiny)
    assert group == GROUP
    again = run_group(tmp_path / "broken", group, tiny)
    assert again[:2] == json.loads(json.dumps(finished))
    assert list(map(numbers, again)) == list(map(numbers, whole))


def test_what_is_begun_goes_on_as_it_began(tiny, tmp_path, monkeypatch):
    cells = matrix(["cot", "recursive"], ["rope", "yarn"], [0, 1, 2])
    of = {task: [c for c in cells if c.task == task] for task in ("cot", "recursive")}
    assert groups(tmp_path, cells, tiny, together=4) == [
        batch(of["cot"][:4]),
        batch(of["recursive"][:4]),
        batch(of["cot"][4:]),
        batch(of["recursive"][4:]),
    ]
    interrupted(tmp_path, tiny, 22)  # five of other methods
    assert groups(tmp_path, cells, tiny) == [single(c) for c in cells]  # a table a seed, as in the matrix
    assert groups(tmp_path, cells, tiny, device="cuda") == [batch([c]) for c in cells]
    assert groups(tmp_path, [*cells, CELLS[1]], tiny, together=6)[0] == GROUP
    run_cell(tmp_path, cells[0], tiny)  # finished
    begin(tmp_path, cells[1], tiny, monkeypatch)
    later = [single(cells[1]), batch(of["cot"][2:])]
    assert groups(tmp_path, of["cot"], tiny, together=9) == later
    assert groups(tmp_path, of["cot"], tiny, together=9, device="cuda") == later


def begin(out, cell, settings, monkeypatch):
    """Train a cell alone, and stop before its record."""

    def stop(out, work):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resrope.posgen.cell.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run_cell(out, cell, settings)


def test_cells_give_up_one_by_one(tiny, tmp_path):
    settings = tiny.override({"patience": 1, "best_by": "accuracy", "looks": 8, "learning_rate": 0.3})
    records = run_group(tmp_path, GROUP, settings)
    looks = [len(record["history"]) for record in records]
    assert min(looks) < 8
    for record in records:
        accuracies = [entry["in_distribution"] for entry in record["history"]]
        best = accuracies.index(max(accuracies))
        assert len(accuracies) == min(best + 2, 8)


def test_what_a_cell_gave_up_with_stays_and_is_what_it_has_alone(plain, tmp_path):
    """Also the numbers of its positions, and also when it is killed after that."""
    settings = plain.override({"patience": 2, "best_by": "accuracy", "looks": 12, "epochs": 6})
    records = run_group(tmp_path / "group", GROUP, settings)
    looks = [len(record["history"]) for record in records]
    assert len(set(looks)) > 1
    for cell, record in zip(CELLS, records, strict=True):
        alone = run_cell(tmp_path / "alone", cell, settings)
        assert len(record["history"]) == len(alone["history"])
        one, other = (
            load_file(cell_folder(tmp_path / where, cell) / "last.safetensors")
            for where in ("group", "alone")
        )
        # A step of Adam is 1e-2 here, and as large as that where a gradient is nothing but rounding.
        for name in one if len(record["history"]) < max(looks) else ():
            assert (one[name] - other[name]).abs().mean() < 1e-3, name
    interrupted(tmp_path / "broken", settings, 5 * 2 * (min(looks) + 1) + 7)  # five cells, two steps a look
    again = run_group(tmp_path / "broken", GROUP, settings)
    assert list(map(numbers, again)) == list(map(numbers, records))


@pytest.mark.parametrize("index", [0, 2])
def test_a_loss_that_is_no_number_takes_no_other_cell_along(plain, tmp_path, monkeypatch, index):
    whole = run_group(tmp_path / "whole", batch(CELLS[:index] + CELLS[index + 1 :]), plain)

    def breaks(batch, plain=Batch._one_step):
        losses = plain(batch)
        lost = [i for i, t in enumerate(batch.trainers) if t.seed == index]
        for i in lost:
            losses[i] = float("nan") if batch.step >= 5 else losses[i]
        return losses

    monkeypatch.setattr(Batch, "_one_step", breaks)
    with pytest.raises(ValueError, match=f"{CELLS[index].name}: the loss is nan at step 5; lower learning"):
        run_group(tmp_path / "run", GROUP, plain)
    assert groups(tmp_path / "run", CELLS, plain) == [single(CELLS[index])]  # the others are finished
    left = [c for c in CELLS if c != CELLS[index]]
    for cell, expected in zip(left, whole, strict=True):
        record = json.loads((cell_folder(tmp_path / "run", cell) / "record.json").read_text())
        assert record["last"]["loss"] == pytest.approx(expected["last"]["loss"], rel=1e-3)
    assert not list((tmp_path / "run" / "together").iterdir())


def test_a_validation_loss_that_is_no_number_takes_no_other_cell_along(plain, tmp_path, monkeypatch):
    def breaks(work, losses):
        if work.cell == CELLS[1]:
            raise not_finite(work, float("nan"), work.trainer.step, "validation loss")
        look_at(work, losses)

    monkeypatch.setattr("resrope.posgen.together.look_at", breaks)
    with pytest.raises(ValueError, match=f"{CELLS[1].name}: the validation loss is nan at step"):
        run_group(tmp_path, GROUP, plain)
    assert groups(tmp_path, CELLS, plain) == [single(CELLS[1])]


def test_cells_that_were_finished_elsewhere_are_not_trained_again(tiny, tmp_path):
    interrupted(tmp_path, tiny, 22)
    for cell in CELLS:
        run_cell(tmp_path, cell, tiny)
    assert groups(tmp_path, CELLS, tiny) == []


def test_what_a_kill_left_half_written_is_nobodys_group(tiny, tmp_path):
    interrupted(tmp_path, tiny, 22)
    file = tmp_path / "together" / f"{CELLS[0].name}.safetensors"
    (file.parent / f".{file.name}.abcd.partial").write_bytes(file.read_bytes()[:1000])
    (file.parent / f".{file.name}.0123.partial").write_bytes(file.read_bytes())
    assert groups(tmp_path, CELLS, tiny) == [GROUP]
    run_group(tmp_path, GROUP, tiny)
    assert not list(file.parent.iterdir())


def test_a_cell_begun_alone_on_a_cpu_goes_on_there(tiny, tmp_path, monkeypatch):
    begin(tmp_path, CELLS[0], tiny, monkeypatch)
    (group,) = groups(tmp_path, CELLS[:1], tiny, together=2, device="cpu:0")
    (record,) = run_group(tmp_path, group, tiny, device="cpu:0")
    assert "together" not in record["made"]


def test_dropout_is_drawn_anew_for_every_model_and_step(tiny):
    works = [prepared(Cell(task="cot", method="rope", seed=0), tiny) for _ in range(2)]
    batch = Batch([work.trainer for work in works], CPU)
    ones = torch.ones(2, 100, 200)
    drop = batch._drop()
    first, second = drop(ones), drop(ones)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(batch._drop()(ones), first)
    assert first.mean() == pytest.approx(1, abs=0.01)
    assert (first == 0).float().mean() == pytest.approx(0.1, abs=0.01)
    batch.step += 1
    assert not torch.equal(batch._drop()(ones), first)


def test_a_matrix_in_groups(plain, tmp_path):
    cells, told = matrix(["cot"], ["rope", "alibi"], [0, 1]), []
    records = run_matrix(
        tmp_path, cells, plain, jobs=2, together=3, finished=lambda cell, record: told.append(cell)
    )
    assert [Cell(**record["cell"]) for record in records] == cells
    assert sorted(map(str, told)) == sorted(map(str, cells))
    assert [record["made"].get("together") for record in records] == [3, 3, 3, None]
    with pytest.raises(ValueError, match="together must be >= 1, got 0"):
        run_matrix(tmp_path, cells, plain, jobs=1, together=0)


def test_a_decoder_on_no_device_has_the_shapes_of_one_on_a_device(tiny):
    """Without numbers: whatever device tensors are on, none is left behind on the CPU."""
    meta = torch.device("meta")
    work = prepared(Cell(task="cot", method="fire", seed=0), tiny)
    batch = Batch([work.trainer], meta)
    where = stacked([work.trainer.where(11, 0)], meta)
    tokens = work.trainer.tokens[None, :4, :11].to(meta)
    made = logits(batch.weights, tiny.model, tokens, where, lambda x: x)
    assert made.device == meta
    assert made.shape == (1, 4, 11, 17)
    decoder = Decoder(tiny.model, seed=0).to(meta)
    with torch.no_grad():
        assert decoder(tokens[0], work.trainer.where(11, 0).to(meta)).device == meta
