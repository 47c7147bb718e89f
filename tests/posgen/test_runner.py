import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from typer.testing import CliRunner

from resrope.cli import app
from resrope.posgen.cell import run_cell
from resrope.posgen.evaluate import evaluate
from resrope.posgen.record import Cell, cell_folder, open_run, read_records
from resrope.posgen.runner import matrix, run_matrix
from resrope.provenance import provenance
from resrope.rundir import only_run

CELLS = matrix(["cot"], ["rope", "resonance-yarn"], [0])


def numbers(records):
    """Records without what may differ: when, how fast and where they were made."""
    return [{k: v for k, v in r.items() if k != "made"} for r in records]


def test_matrix_completes_a_table_per_seed():
    cells = matrix(["cot", "recursive"], ["rope"], [0, 1])
    assert [c.name for c in cells] == [
        "cot-rope-seed0",
        "recursive-rope-seed0",
        "cot-rope-seed1",
        "recursive-rope-seed1",
    ]


def test_a_cell_asked_for_twice_is_one_cell():
    assert matrix(["cot", "cot"], ["rope"], [0, 0]) == matrix(["cot"], ["rope"], [0])


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with only_run(tmp_path), pytest.raises(ValueError, match="is in use by another run"), only_run(tmp_path):
        pass
    with only_run(tmp_path):
        pass


def test_leftovers_of_a_kill_are_cleared(tiny, tmp_path):
    """A process killed within an atomic write leaves a hidden partial file; it must not stop the next."""
    (tmp_path / ".run.json.0123abcd.partial").write_text("{")
    open_run(tmp_path, "quick", tiny)
    folder = cell_folder(tmp_path, CELLS[0])
    folder.mkdir(parents=True)
    (folder / ".checkpoint.safetensors.0123abcd.partial").write_bytes(b"half")
    run_cell(tmp_path, CELLS[0], tiny)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_diverged_run_says_so_and_records_nothing(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"cot-rope-seed0: the loss is .* at step .*; lower learning_rate"):
        run_cell(tmp_path, CELLS[0], tiny.override({"learning_rate": 1e30}))
    assert not list(tmp_path.rglob("record.json"))


def test_so_does_one_that_cannot_be_validated(tiny, tmp_path, monkeypatch):
    def blind(*given):
        seen = evaluate(*given)
        seen.loss[:] = float("nan")
        return seen

    monkeypatch.setattr("resrope.posgen.work.evaluate", blind)
    with pytest.raises(ValueError, match="cot-rope-seed0: the validation loss is nan at step 3; lower"):
        run_cell(tmp_path, CELLS[0], tiny)


def test_a_cell_of_two_commits_says_so(tiny, tmp_path, monkeypatch):
    def killed(steps):
        if steps and list(tmp_path.rglob("checkpoint.safetensors")):
            raise KeyboardInterrupt

    known = provenance()
    monkeypatch.setattr("resrope.posgen.work.provenance", lambda: known | {"commit": "a"})
    with pytest.raises(KeyboardInterrupt):
        run_cell(tmp_path, CELLS[0], tiny, killed)
    monkeypatch.setattr("resrope.posgen.work.provenance", lambda: known | {"commit": "b"})
    made = run_cell(tmp_path, CELLS[0], tiny)["made"]
    assert (made["commit"], made["commits"]) == ("b", ["a", "b"])


def test_another_start_with_other_settings_leaves_those_of_the_one_that_runs(tmp_path):
    words = ["posgen", "run", "--task", "cot", "--method", "rope", "--out", str(tmp_path)]
    with only_run(tmp_path):
        refused = CliRunner().invoke(app, words)
    assert "is in use by another run" in str(refused.exception)
    assert not (tmp_path / "run.json").exists()


def test_scaling_at_test_time_only(tiny, tmp_path):
    record = run_cell(tmp_path, CELLS[1], tiny.override({"scale_in_training": False}))
    assert record["embedding"]["training"]["attention_factor"] == 1.0
    assert record["embedding"]["testing"]["attention_factor"] > 1.0
    assert record["embedding"]["training"]["periods"] is not None


def test_a_record_explains_itself(tiny, tmp_path):
    record = run_cell(tmp_path, Cell(task="semi-recursive", method="resonance-yarn", seed=1), tiny)
    assert record["cell"] == {"task": "semi-recursive", "method": "resonance-yarn", "seed": 1}
    assert record["settings"]["epochs"] == 3
    assert record["embedding"]["training"]["periods"] == record["embedding"]["testing"]["periods"]
    assert [h["step"] for h in record["history"]] == [3, 6, 9, 12]
    assert len(record["last"]["correct_by_position"]) == 24
    lowest = min(record["history"], key=lambda h: h["validation_loss"])
    assert record["best"]["step"] == lowest["step"]
    assert record["made"]["threads"] == 1
    assert not list(tmp_path.rglob("checkpoint*"))
    folder = cell_folder(tmp_path, Cell(task="semi-recursive", method="resonance-yarn", seed=1))
    assert sorted(p.name for p in folder.iterdir()) == ["best.safetensors", "last.safetensors", "record.json"]


def test_a_finished_cell_is_never_repeated(tiny, tmp_path):
    cell = Cell(task="cot", method="rope", seed=0)
    first = run_cell(tmp_path, cell, tiny)
    steps = []
    assert run_cell(tmp_path, cell, tiny, steps.append) == first
    assert steps == []


@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_interrupted_between_steps_it_ends_with_the_same_bits(tiny, tmp_path, stop_after):
    """Also the weights, and also when what was lost since the last look is done again."""
    cell = Cell(task="cot", method="resonance-rope", seed=0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run_cell(whole, cell, tiny)

    def interrupt(steps):
        nonlocal left
        left -= steps
        if left < 0:
            raise KeyboardInterrupt

    left = stop_after
    with pytest.raises(KeyboardInterrupt):
        run_cell(broken, cell, tiny, interrupt)
    assert numbers([run_cell(broken, cell, tiny)]) == numbers([expected])
    for name in ("last.safetensors", "best.safetensors"):
        assert (cell_folder(whole, cell) / name).read_bytes() == (
            cell_folder(broken, cell) / name
        ).read_bytes()


def test_the_callers_arithmetic_stays(tiny, tmp_path):
    """A cell flushes denormals to 0 while it runs, and only then."""
    run_cell(tmp_path, CELLS[0], tiny)
    assert float(torch.tensor(1e-310, dtype=torch.float64) / 2) > 0
    assert 1e-310 / 2 > 0


def test_free_running_is_an_option(tiny, tmp_path):
    record = run_cell(tmp_path, CELLS[0], tiny.override({"free_running_rows": 3}))
    free = record["last"]["free_running"]
    assert free["rows"] == 3
    assert set(free) >= {"in_distribution", "ood", "correct_by_position"}


COMMAND = [sys.executable, "-c", "from resrope.cli import main; main()", "posgen", "run"]


def command(out, settings, *more):
    pairs = [part for k, v in settings.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    return [*COMMAND, "--out", str(out), "--task", "cot", "--method", "rope,resonance-yarn", *pairs, *more]


def test_killed_at_any_moment_it_ends_with_the_same_numbers(tiny, tmp_path):
    """SIGKILL to the parent at random moments, run again until done, compare with a run in peace."""
    settings = asdict(tiny) | {"epochs": 120, "looks": 30}
    peaceful, killed = tmp_path / "peaceful", tmp_path / "killed"
    subprocess.run(command(peaceful, settings, "--jobs", "2"), check=True, capture_output=True)
    rng, kills = random.Random(0), 0
    while kills < 3:
        process = subprocess.Popen(
            command(killed, settings, "--jobs", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        known = checkpoints(killed)
        while checkpoints(killed) == known and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        assert process.poll() is None, "it finished before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command(killed, settings, "--jobs", "2"), check=True, capture_output=True)
    assert numbers(read_records(killed)) == numbers(read_records(peaceful))
    assert not list(killed.rglob("*.partial"))


def checkpoints(out):
    """What is on disk now, as (name, time) pairs."""
    return {(p.name, p.stat().st_mtime_ns) for p in out.rglob("*.safetensors") if p.exists()}


def test_a_worker_that_dies_is_one_line(tiny, tmp_path):
    open_run(tmp_path, "quick", tiny)
    long = tiny.override({"epochs": 4000})

    def kill_a_worker(cell, steps):
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(ValueError, match="a worker process was killed"):
        run_matrix(tmp_path, CELLS, long, jobs=1, progress=kill_a_worker)


LATE = """
import torch
from resrope.posgen.positions import PositionEmbedding
class Late(PositionEmbedding):
    calls = 0
    def input(self, positions):
        self.calls += self.training
        return torch.zeros(len(positions), self.sizes.d_model + (self.calls > 5))
    def positions(self, length, random):  # so that it is asked at every step
        return torch.arange(length)
"""


def test_a_cell_that_fails_takes_no_other_along(tiny, tmp_path, monkeypatch):
    (tmp_path / "failing_late.py").write_text(LATE)
    monkeypatch.chdir(tmp_path)
    bad, good = matrix(["cot"], ["failing_late:Late", "rope"], [0])
    with pytest.raises(ValueError, match=r"Late: input must be torch.float32 \[11, 16\]"):
        run_matrix(tmp_path / "run", [bad, good], tiny, jobs=1)
    assert [r["cell"]["method"] for r in read_records(tmp_path / "run")] == ["rope"]


def test_jobs_must_be_positive(tiny, tmp_path):
    with pytest.raises(ValueError, match="jobs must be >= 1, got 0"):
        run_matrix(tmp_path, CELLS, tiny, jobs=0)
