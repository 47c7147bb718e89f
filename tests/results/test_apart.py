import json
import runpy

from tests.results.test_leaderboard import RESULTS


def test_the_list_is_the_one_that_was_trained(capsys):
    runpy.run_path(str(RESULTS / "apart.py"))["main"]()
    run = json.loads((RESULTS / "small-listed" / "run.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == run["settings"]["wavelengths"]
