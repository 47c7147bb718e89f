"""Cells that training cannot tell apart are trained once, and each has what it would have alone."""

import pytest
import torch

from resrope.posgen import cell as cells_of
from resrope.posgen.cell import run_cell, run_twins, twins
from resrope.posgen.record import Cell, cell_folder, read_record, read_tensors, write_tensors
from resrope.posgen.runner import matrix, run_matrix
from resrope.posgen.together import Group, groups, run_group
from resrope.posgen.train import Trainer, total_steps

METHODS = ["rope", "yarn", "dynamic-ntk"]
GROUP = tuple(Cell(task="cot", method=method, seed=0) for method in METHODS)


@pytest.fixture
def late(tiny):
    """Scaling at test time alone."""
    return tiny.override({"scale_in_training": False})


def test_who_is_whose_twin(late, tiny, tmp_path):
    methods = ["rope", "resonance-rope", "yarn", "alibi", "resonance-yarn", "distinct-rope", "p-rope"]
    cells = matrix(["cot", "recursive"], methods, [0, 1])
    found = [tuple(cell.method for cell in group) for group in twins(cells, late)]
    # head_dim 8: no two wavelengths round to the same, so that the distinct integers are the nearest.
    one = [("rope", "yarn"), ("resonance-rope", "resonance-yarn", "distinct-rope"), ("alibi",), ("p-rope",)]
    assert found == one * 4
    for group in twins(cells, late):
        assert len({(cell.task, cell.seed) for cell in group}) == 1
    assert [len(group) for group in twins(cells[:5], tiny)] == [1] * 5  # scaled in training, they differ
    with pytest.raises(ValueError, match="must not tell these cells apart: cot-rope-seed0, cot-yarn-seed0"):
        run_twins(tmp_path, (cells[0], cells[2]), tiny)
    assert not list(tmp_path.iterdir())


def test_dynamic_ntk_is_rope_as_long_as_sequences_are_short(tiny):
    for settings in (tiny, tiny.override({"eos_prefix": True})):
        assert twins([cell for cell in GROUP if cell.method != "yarn"], settings) == [(GROUP[0], GROUP[2])]


def numbers(record):
    return {k: record[k] for k in ("history", "last", "best", "embedding", "settings")}


def same_as_alone(out, alone, settings):
    for cell in GROUP:
        run_cell(alone, cell, settings)
        for name in ("last.safetensors", "best.safetensors"):
            assert (cell_folder(out, cell) / name).read_bytes() == (
                cell_folder(alone, cell) / name
            ).read_bytes()
    return [numbers(run_cell(alone, cell, settings)) for cell in GROUP]


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps that are trained."""
    done = []

    def counted(trainer, plain=Trainer._one_step):
        done.append(trainer.step)
        return plain(trainer)

    monkeypatch.setattr(Trainer, "_one_step", counted)
    return done


def test_they_are_trained_once_and_have_what_each_has_alone(late, tmp_path, steps):
    told = []
    records = run_twins(tmp_path / "once", GROUP, late, told.append)
    assert len(steps) == total_steps(late)
    assert sum(told) == 3 * total_steps(late)
    assert list(map(numbers, records)) == same_as_alone(tmp_path / "once", tmp_path / "alone", late)
    assert [record["made"]["trained_as_one"] for record in records] == [3, 3, 3]
    assert records[0]["last"]["loss"] != records[1]["last"]["loss"]  # tested with tables of their own


@pytest.mark.parametrize("rate", [0.03, 0.1])  # the second gives up first; the first two before the third
def test_who_gave_up_stays_as_it_was(late, tmp_path, rate):
    """Here each at another look: what a model is when training ends for it is what its record tells."""
    settings = late.override(
        {"patience": 1, "looks": 12, "best_by": "accuracy", "learning_rate": rate, "look_rows": 12}
    )
    records = run_twins(tmp_path / "once", GROUP, settings)
    assert len({len(record["history"]) for record in records}) > 1
    assert list(map(numbers, records)) == same_as_alone(tmp_path / "once", tmp_path / "alone", settings)


@pytest.mark.parametrize("stop_after", [2, 16, 34])
def test_interrupted_they_end_with_the_same_bits(late, tmp_path, stop_after):
    def interrupt(steps):
        nonlocal left
        left -= steps
        if left < 0:
            raise KeyboardInterrupt

    left, out = stop_after, tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run_twins(out, GROUP, late, interrupt)
    again = run_twins(out, GROUP, late)
    assert list(map(numbers, again)) == same_as_alone(out, tmp_path / "alone", late)


def stopped(out, settings, monkeypatch, part, calls):
    """Killed instead of so many calls of a part later."""
    done, plain = [], getattr(cells_of, part)

    def call(out, work):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(work.cell)
        return plain(out, work)

    with monkeypatch.context() as patch:
        patch.setattr(cells_of, part, call)
        with pytest.raises(KeyboardInterrupt):
            run_twins(out, GROUP, settings)


@pytest.mark.parametrize("saves", [4, 5])
def test_killed_between_two_checkpoints_who_is_behind_catches_up(late, tmp_path, monkeypatch, saves):
    stopped(tmp_path / "broken", late, monkeypatch, "_save", saves)
    (group,) = groups(tmp_path / "broken", GROUP, late, together=2)
    assert group == Group(cells=GROUP, batched=False)  # begun so, it goes on so
    again = run_group(tmp_path / "broken", group, late)
    assert list(map(numbers, again)) == same_as_alone(tmp_path / "broken", tmp_path / "alone", late)


def test_killed_between_two_records_the_others_say_how_they_were_trained(late, tmp_path, monkeypatch):
    stopped(tmp_path / "broken", late, monkeypatch, "finish", 1)
    again = run_twins(tmp_path / "broken", GROUP, late)
    assert [record["made"]["trained_as_one"] for record in again] == [3, 3, 3]


def test_who_was_begun_with_other_threads_goes_on_with_them(late, tmp_path, monkeypatch):
    for cell, threads in zip(GROUP, (2, 1, 2), strict=True):
        torch.set_num_threads(threads)
        with monkeypatch.context() as patch:
            patch.setattr(cells_of, "finish", lambda out, work: {})
            run_cell(tmp_path, cell, late)
    torch.set_num_threads(1)
    found = groups(tmp_path, GROUP, late)
    assert [group.cells for group in found] == [GROUP[1:2], (GROUP[0], GROUP[2])]
    for group in found:
        run_group(tmp_path, group, late)
    threads = [run_cell(tmp_path, cell, late)["made"]["threads"] for cell in GROUP]
    assert threads == [2, 1, 2]


def test_who_stands_elsewhere_is_trained_for_itself(late, tmp_path, monkeypatch, steps):
    """As when it was begun on a machine that rounds otherwise: no weights of another come in its place."""
    stopped(tmp_path, late, monkeypatch, "_save", 3)
    file = cell_folder(tmp_path, GROUP[1]) / "checkpoint.safetensors"
    tensors, notes = read_tensors(file)
    tensors["model.embedding"] += 0.1
    write_tensors(file, tensors, notes)
    before = len(steps)
    records = run_twins(tmp_path, GROUP, late)
    assert len(steps) - before == 2 * (total_steps(late) - notes["step"])
    assert records[1]["history"][-1]["train_loss"] != records[0]["history"][-1]["train_loss"]
    assert records[2]["history"][-1]["train_loss"] == records[0]["history"][-1]["train_loss"]


def test_who_had_given_up_keeps_what_it_has_when_the_others_diverge(late, tmp_path, monkeypatch):
    settings = late.override(
        {"patience": 1, "looks": 12, "best_by": "accuracy", "learning_rate": 0.1, "look_rows": 12}
    )
    expected = [len(record["history"]) for record in run_twins(tmp_path / "well", GROUP, settings)]
    assert expected[0] < expected[2]

    def breaks(trainer, plain=Trainer._one_step):
        return plain(trainer) if trainer.step <= expected[0] else float("nan")  # a look a step

    monkeypatch.setattr(Trainer, "_one_step", breaks)
    with pytest.raises(ValueError, match="cot-dynamic-ntk-seed0: the loss is nan"):
        run_twins(tmp_path / "ill", GROUP, settings)
    assert [read_record(tmp_path / "ill", cell) is not None for cell in GROUP] == [True, True, False]


def test_a_twin_that_comes_later_is_trained_for_itself(late, tmp_path, steps):
    first = run_twins(tmp_path, GROUP[:1], late)
    assert "trained_as_one" not in first[0]["made"]
    both = run_twins(tmp_path, GROUP[:2], late)
    assert both[0] == first[0]
    assert len(steps) == 2 * total_steps(late)


def test_a_matrix_trains_twins_once(late, tmp_path):
    cells, told = matrix(["cot"], ["rope", "resonance-rope", "yarn"], [0]), []
    records = run_matrix(tmp_path, cells, late, jobs=2, finished=lambda cell, record: told.append(cell))
    assert [record["made"].get("trained_as_one") for record in records] == [2, None, 2]
    assert sorted(map(str, told)) == sorted(map(str, cells))
