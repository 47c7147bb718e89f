import runpy

import pytest
from tests.posgen.conftest import TINY
from tests.results.test_leaderboard import RESULTS

from resrope.posgen.cell import run_cell
from resrope.posgen.record import Cell, open_run
from resrope.posgen.settings import Settings

SCRIPT = runpy.run_path(str(RESULTS / "attention.py"))


def test_cells_as_tables_and_pictures(tmp_path):
    settings, cell = Settings().override(TINY), Cell(task="semi-recursive", method="resonance-yarn", seed=3)
    run = tmp_path / "tiny"
    open_run(run, "quick", settings)
    run_cell(run, cell, settings)
    SCRIPT["main"]([run / cell.name], tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## tiny: Semi-recursive, Resonance YaRN: where its heads look, seed 3" in page
    assert f"(tiny-{cell.name}.png)" in page
    assert (tmp_path / "out" / f"tiny-{cell.name}.png").read_bytes().startswith(b"\x89PNG")


def test_cells_by_name():
    assert SCRIPT["named"]("semi-recursive-rope-seed12") == Cell(
        task="semi-recursive", method="rope", seed=12
    )
    with pytest.raises(ValueError, match="must be a cell's name"):
        SCRIPT["named"]("rope-seed1")
