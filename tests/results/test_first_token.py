"""`results/first_token.py`: attention cut, but for the token before the sequence."""

import runpy
from dataclasses import replace

import pytest
from tests.results.test_leaderboard import RESULTS

from resrope.posgen.cell import run_cell
from resrope.posgen.record import Cell, open_run
from resrope.posgen.report.window import retest_run
from resrope.posgen.settings import Settings

SIZES = {"d_model": 16, "n_heads": 2, "head_dim": 8, "d_ff": 32, "n_layers": 1, "dropout": 0.0, "epochs": 1}
DATA = {"train_rows": 60, "validation_rows": 12, "test_rows": 10, "train_length": 12, "test_length": 24}
script = runpy.run_path(str(RESULTS / "first_token.py"))


@pytest.mark.parametrize("method", ["rope", "alibi"])
def test_the_first_token_stays_in_sight(tmp_path, method):
    settings = Settings().override({**SIZES, **DATA, "looks": 2, "eos_prefix": True})
    run, cell = tmp_path / "run", Cell(task="cot", method=method, seed=0)
    open_run(run, "quick", settings)
    record = run_cell(run, cell, settings)
    (cut,) = retest_run(run, 23)
    # The last of 24 tokens that are read sees all but the first one where 23 are seen, and all with it.
    assert script["with_first"](run, cut, 10) == 100 * record["last"]["ood"]
    if method == "rope":  # a model of ALiBi as small as this one tells one token as it tells all
        assert script["with_first"](run, replace(cut, tokens=1), 10) != 100 * record["last"]["ood"]
    script["main"](run, 10, tmp_path)
    assert f"| {100 * record['last']['ood']:.1f} |" in (tmp_path / "first-token.md").read_text()


def test_a_run_without_such_a_token(tmp_path):
    open_run(tmp_path, "quick", Settings().override(DATA))
    with pytest.raises(ValueError, match="must be a run with eos_prefix, after `resrope posgen window`"):
        script["main"](tmp_path)
