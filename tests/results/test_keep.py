"""`results/keep.py`: a kept run is the run again."""

import json
import runpy

import pytest
from tests.results.test_leaderboard import RESULTS

from resrope.posgen.record import Cell, read_records, read_run
from resrope.posgen.together import Group, groups

SMALL = RESULTS / "small"
unpack = runpy.run_path(str(RESULTS / "keep.py"))["unpack_run"]


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


def test_what_is_there_is_not_unpacked_over(tmp_path):
    with pytest.raises(ValueError, match="is there already"):
        unpack(SMALL, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_is_no_kept_run_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="must be a kept run"):
        unpack(tmp_path / "nothing", tmp_path / "run")
    assert not any(tmp_path.iterdir())
