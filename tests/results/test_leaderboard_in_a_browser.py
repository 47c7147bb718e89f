"""The leaderboard as a person sees it, in headless Chromium. `make browser` installs one on Debian."""

import copy
import io
import os
import shutil

import pytest
from matplotlib.image import imread
from playwright.sync_api import sync_playwright
from tests.results.test_leaderboard import RESULTS

from resrope.posgen.report.board import board
from resrope.posgen.report.result import results_in

# Nothing but the page: no sandbox for root in a container, no calls home.
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium here: make browser")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, tmp_path):
    """HTML -> a page that shows it, what it asked for and what it complained of."""

    def show(html, width=1200):
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        page, asked, complaints = browser.new_page(viewport={"width": width, "height": 900}), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        assert asked == [file.as_uri()]
        assert not complaints
        return page

    return show


@pytest.mark.parametrize("width", [1200, 400])
def test_it_shows_every_result_and_needs_no_other_file(opened, width):
    wanted = board(result for _, result in results_in([RESULTS]))
    page = opened((RESULTS / "leaderboard.html").read_text(encoding="utf-8"), width)
    assert page.title() == "PosGen leaderboard"
    assert page.locator("h2").all_inner_texts() == [grid.title for grid in wanted.grids]
    shown = [
        [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]
        for table in page.locator("table").all()
    ]
    assert shown == [grid.rows for grid in wanted.grids]
    assert all(table.is_visible() for table in page.locator("table").all())
    # Wide tables move within themselves: the page has no width beyond the window's.
    assert page.evaluate("document.documentElement.scrollWidth") == width
    seen = imread(io.BytesIO(page.screenshot()))[..., :3]
    assert seen.std() > 0.05  # dark on light, not an empty window
    assert (seen > 0.99).all(-1).mean() > 0.5


def test_what_people_hand_in_is_text_and_their_links_lead_there(opened):
    result = copy.deepcopy(next(r for _, r in results_in([RESULTS / "quick"])))
    words = "<script>document.title='x'</script> | & <b>bold</b>"
    result |= {"title": words, "by": words, "link": "https://example.org/a?b=1&c=2"}
    page = opened(board([result]).html({}))
    assert page.title() == "PosGen leaderboard"
    link = page.locator("td a").first
    assert link.inner_text() == words
    assert link.get_attribute("href") == "https://example.org/a?b=1&c=2"
    assert page.locator("td b").count() == 0
    line = next(line for line in board([result]).markdown().splitlines() if "example.org" in line)
    assert line.replace(r"\|", "").count("|") == 7
