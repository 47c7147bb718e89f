"""`results/keep.py`: a kept run is the run again, and so is a kept audit."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
from tests.posgen.conftest import TINY
from tests.results.test_leaderboard import RESULTS

from resrope.posgen.record import Cell, open_run, read_records, read_run
from resrope.posgen.report.audit import alone, held, ladder, open_all
from resrope.posgen.settings import Settings
from resrope.posgen.together import Group, groups

SMALL = RESULTS / "small"
SCRIPT = runpy.run_path(str(RESULTS / "keep.py"))
keep, unpack = SCRIPT["keep"], SCRIPT["unpack_runs"]
TINY_RUN = Settings().override(TINY)
CLEAN = {"commit": "0" * 40, "date": "2026-01-01", "seconds": 1.0}


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_kept_run_goes_on_where_it_was(tmp_path):
    unpack(SMALL, tmp_path / "small")
    records = read_records(tmp_path / "small")
    assert read_run(tmp_path / "small") == read_run(SMALL)
    assert len(records) == 60
    assert {json.dumps(r) for r in records} == {
        json.dumps(r) for r in json.loads((SMALL / "records.json").read_text())
    }
    there, new = Cell(task="cot", method="yarn", seed=4), Cell(task="cot", method="yarn", seed=5)
    assert groups(tmp_path / "small", [there, new], read_run(SMALL)[1]) == [
        Group(cells=(new,), batched=False)
    ]


@pytest.fixture
def trained():
    """trained(folder, settings) -> with a cell that ran at a clean commit, as its record says."""
    from resrope.posgen.cell import run_cell
    from resrope.posgen.record import cell_folder

    cell = Cell(task="cot", method="yarn", seed=0)

    def train(folder, settings):
        record = run_cell(folder, cell, settings)
        told = {**record, "made": {**record["made"], **CLEAN}}
        (cell_folder(folder, cell) / "record.json").write_text(json.dumps(told))

    return train


@pytest.mark.parametrize("rungs", [ladder, alone])
def test_a_kept_audit_is_the_audit_again(tmp_path, trained, rungs):
    settings = rungs(TINY_RUN.override({"epochs": 1, "looks": 1, "dropout": 0.0}))
    for folder, rung in list(zip(open_all(tmp_path / "audit", "quick", settings), settings, strict=True))[:2]:
        trained(folder, rung.settings)
    keep(tmp_path / "audit", tmp_path / "kept")
    told = json.loads((tmp_path / "kept" / "provenance.json").read_text())
    assert told["made"]["commit"] == CLEAN["commit"]
    assert told["seconds_in_all"] == 2.0
    first = "0-released" if rungs is ladder else "0-paper"
    assert list(told["seconds_per_cell"]) == [f"{first}/cot-yarn-seed0", "1-layers/cot-yarn-seed0"]
    said = "resrope posgen audit" if rungs is ladder else "resrope posgen audit --alone"
    assert told["command"].startswith(f"{said} --preset quick --task cot --method yarn --seeds 0 --set ")
    assert "--set n_layers=1 " in told["command"]  # not the six of the other end
    assert "--set split" not in told["command"]
    unpack(tmp_path / "kept", tmp_path / "again")
    assert list(held(tmp_path / "again").values()) == settings
    for folder in (tmp_path / "audit").glob("*-*"):
        assert read_records(folder) == read_records(tmp_path / "again" / folder.name)
    once = files_of(tmp_path / "kept")
    assert {"audit.md", "audit.html", "audit.json", "audit.png", f"{first}/records.json"} < set(once)
    keep(tmp_path / "kept", tmp_path / "kept")
    assert files_of(tmp_path / "kept") == once


def test_what_is_there_is_not_unpacked_over(tmp_path):
    with pytest.raises(ValueError, match="is there already"):
        unpack(SMALL, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_is_no_kept_run_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="must be the folder of a run or of an audit"):
        unpack(tmp_path / "nothing", tmp_path / "run")
    open_run(tmp_path / "bare", "quick", TINY_RUN)
    with pytest.raises(ValueError, match=r"bare must be a kept run, with run.json and records.json"):
        unpack(tmp_path / "bare", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_not_kept_before_is_not_kept_over(tmp_path):
    shutil.copytree(SMALL, tmp_path / "mine")
    (tmp_path / "mine" / "chapter").mkdir()
    (tmp_path / "mine" / "chapter" / "thesis.tex").write_text("years of work")
    before = files_of(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"must be new, empty or kept before; it holds chapter/thesis.tex"):
        keep(SMALL, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"must not hold .*mine"):
        keep(tmp_path / "mine", tmp_path)
    assert files_of(tmp_path / "mine") == before


def test_what_was_there_is_there_again_where_the_new_cannot_be(tmp_path, monkeypatch):
    shutil.copytree(SMALL, tmp_path / "small")
    before, rename = files_of(tmp_path / "small"), Path.rename

    def full(self, target):
        if self.name == "small" and self.parent.name.startswith("tmp"):
            raise OSError("no room")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no room"):
        keep(tmp_path / "small", tmp_path / "small")
    assert files_of(tmp_path / "small") == before


def test_an_audit_of_which_nothing_is_finished(tmp_path):
    open_all(tmp_path / "audit", "quick", ladder(TINY_RUN))
    with pytest.raises(ValueError, match="audit has no finished cell yet"):
        keep(tmp_path / "audit", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_checkout_with_changes_is_no_provenance(tmp_path, trained, monkeypatch):
    open_run(tmp_path / "run", "quick", TINY_RUN)
    monkeypatch.setitem(CLEAN, "commit", "0" * 40 + "+changes")
    trained(tmp_path / "run", TINY_RUN)
    with pytest.raises(ValueError, match=r"one clean commit, got 0*.changes"):
        keep(tmp_path / "run", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
