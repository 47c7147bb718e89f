from pathlib import Path

from resrope.posgen.report.board import board
from resrope.posgen.report.result import results_in

RESULTS = Path(__file__).parents[2] / "results"


def test_the_leaderboard_is_that_of_the_results():
    page = board(result for _, result in results_in([RESULTS]))
    assert (RESULTS / "leaderboard.md").read_text(encoding="utf-8") == page.markdown()
    assert (RESULTS / "leaderboard.html").read_text(encoding="utf-8") == page.html({})
