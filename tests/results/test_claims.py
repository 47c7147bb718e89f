import runpy

from tests.results.test_leaderboard import RESULTS


def test_the_page_of_claims_is_that_of_the_results():
    page = runpy.run_path(str(RESULTS / "claims.py"))["page"](RESULTS)
    assert (RESULTS / "claims.md").read_text(encoding="utf-8") == page.markdown()
