import copy
import json

import pytest

from resrope.posgen.cell import run_cell
from resrope.posgen.record import Cell, open_run
from resrope.posgen.report.board import Entry, board, entries
from resrope.posgen.report.result import check, read_result, result_of, results_in, schema, write_result
from resrope.posgen.titles import title


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two methods and two seeds, and its result."""
    from tests.posgen.conftest import TINY

    from resrope.posgen.settings import Settings

    folder, tiny = tmp_path_factory.mktemp("run"), Settings().override({**TINY, "epochs": 1, "looks": 1})
    open_run(folder, "quick", tiny)
    for method in ("rope", "alibi"):
        for seed in (0, 1):
            run_cell(folder, Cell(task="cot", method=method, seed=seed), tiny)
    return folder, result_of(folder, title="Tiny", by="A. Author", link="https://example.org")


@pytest.fixture
def result(made):
    return copy.deepcopy(made[1])


def test_what_is_written_is_read_and_checked(result, tmp_path):
    write_result(result, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == json.loads(json.dumps(result))
    assert check(result).test_length == 24
    assert [file.name for file, _ in results_in([tmp_path])] == ["result.json"]
    assert len(result["cells"]) == 4
    assert schema()["properties"]["schema"]["const"] == result["schema"]


def break_cell(**changes):
    def change(result):
        result["cells"][1] |= changes

    return change


def break_last(**changes):
    def change(result):
        result["cells"][0]["last"] |= changes

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(schema="resrope-posgen-result-0"), "schema must be resrope-posgen-result-1, got"),
        (lambda r: r.update(title="Tiny\n"), r"title: must be one line, got 'Tiny\\n'"),
        (break_cell(embedding={}), "cells/1/embedding: 'class' is a required property"),
        (
            lambda r: [cell.update(method="bogus") for cell in r["cells"] if cell["method"] == "alibi"],
            "bogus is none of resrope's own methods, and the embedding has no source",
        ),
        (
            break_cell(embedding={"class": "Alien", "parameters": 3}),
            "alibi: its embedding must have {'class': 'ALiBi', 'parameters': 0}, got {'class': 'Alien'",
        ),
        (
            lambda r: [c.update(method="listed-rope") for c in r["cells"] if c["method"] == "rope"],
            "wavelengths must be 4 integers, one a feature, got 0",
        ),
        (lambda r: r["settings"].pop("d_model"), "settings: 'd_model' is a required property"),
        (break_cell(method="rope\n"), "cells/1/method: must be one line, got"),
        (break_cell(method="<img src=x>"), "cells/1/method: '<img src=x>' does not match"),
        (lambda r: r.pop("by"), "the result: 'by' is a required property"),
        (lambda r: r.update(link="http://x"), "link: 'http://x' does not match"),
        (lambda r: r.update(cells=[]), r"cells: \[\] should be non-empty"),
        (break_cell(seed=-1), "cells/1/seed: -1 is less than the minimum of 0"),
        (break_cell(task="induction"), "cells/1/task: 'induction' is not one of"),
        (break_cell(claim=99.9), "cells/1: Additional properties are not allowed"),
        (lambda r: r["settings"].update(factor=0.5), "factor must be a finite number >= 1"),
        (lambda r: r["settings"].update(hidden=1), "unknown setting 'hidden'"),
        (lambda r: r["cells"].append(r["cells"][0]), "cot, alibi, 0 is there twice"),
        (lambda r: r["cells"].pop(), "cot, rope has no seed 1, which others have"),
        (break_last(rows=9), "cot, alibi, 0, last: rows must be test_rows = 10, got 9"),
        (break_last(correct_by_position=[0] * 23), "must have test_length = 24 entries, got 23"),
        (break_last(correct_by_position=[1] * 24), r"nothing is predicted at the first j\+k = 4 positions"),
        (break_last(correct_by_position=[0] * 4 + [11] * 20), "11 of 10 rows cannot be right"),
    ],
)
def test_what_is_wrong_is_said(result, change, words, tmp_path):
    change(result)
    with pytest.raises(ValueError, match=words):
        check(result)
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match=str(tmp_path / "result.json")):
        read_result(tmp_path / "result.json")


def test_what_is_no_number_is_no_json(result, tmp_path):
    result["cells"][0]["made"]["seconds"] = float("inf")
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="is not valid JSON: Infinity is no number of JSON"):
        read_result(tmp_path / "result.json")


def test_what_nobody_would_write_is_no_traceback(tmp_path):
    (tmp_path / "result.json").write_text('{"a":' * 10**5)
    with pytest.raises(ValueError, match=r"result\.json is not valid JSON"):
        read_result(tmp_path / "result.json")


def test_a_users_own_embedding_is_taken_with_its_source(result):
    for cell in result["cells"]:
        cell |= {"method": "mine:Mine", "embedding": {**cell["embedding"], "source": "0" * 16}}
    with pytest.raises(ValueError, match="is there twice"):
        check(result)
    result["cells"] = result["cells"][:2]
    check(result)


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no result.json lies in"):
        list(results_in([tmp_path]))


def test_the_board_by_hand(result):
    """Counts that make 100 % and 50 % beyond the training length of 12, the better one second in the file."""
    for cell in result["cells"]:
        right = 10 if cell["method"] == "rope" else 5
        cell["last"]["correct_by_position"] = [0] * 12 + [right] * 12
    assert {e.method: list(e.ood) for e in entries(result)} == {"rope": [1.0, 1.0], "alibi": [0.5, 0.5]}
    page = board([result])
    (grid,) = page.grids
    assert grid.title.startswith("CoT: preset quick, train_rows 60, ")
    assert grid.note.startswith("h = sum mod 17, 12 → 24 tokens, 1 layers of 16, ")
    assert [row[0] for row in grid.rows[:2]] == ["RoPE", "ALiBi"]
    assert grid.rows[0][1] == "100.0 ± 0.0 [100.0, 100.0]"
    assert grid.rows[2][:3] == ["Rules alone, 5 tokens", "100.0", "–"]
    other = copy.deepcopy(result)
    other["settings"]["modulus"] = 19
    assert len(board([result, other]).grids) == 2
    assert "<table>" in page.html({})


def test_chance_is_no_reason_to_stand_first(result):
    """Far accuracy counts where its interval lies above what rules score."""

    def entry(far, ood):
        return Entry(task="cot", method="rope", result=result, ood=[ood] * len(far), far=far, rules=0.06)

    found = entry([0.2, 0.21], 0.3)
    by_chance, once = entry([0.05, 0.08], 0.4), entry([0.9], 0.35)
    nothing = Entry(task="cot", method="rope", result=result, ood=[1.0], far=[], rules=None)
    assert sorted([once, by_chance, found], key=lambda e: e.height) == [once, by_chance, found]
    assert found.height == pytest.approx((0.205, 0.3))
    assert by_chance.height == pytest.approx((0.06, 0.4))
    assert nothing.height == (0.0, 1.0)


def test_the_same_cells_stand_there_once(result):
    taken = copy.deepcopy(result) | {"title": "Taken over"}
    taken["cells"] = [cell for cell in taken["cells"] if cell["method"] == "rope"]
    taken["settings"]["wavelengths"] = [6, 8, 30, 31]  # of another embedding that was run beside it
    own = copy.deepcopy(taken["cells"])
    for cell in own:
        cell |= {"method": "listed-rope"}
    taken["cells"] += own
    (grid,) = board([result, taken]).grids
    assert sorted(row[0] for row in grid.rows[:-2]) == ["ALiBi", "Listed RoPE (6, 8, …)", "RoPE"]
    fewer = result | {"title": "Fewer seeds", "cells": result["cells"][:1]}
    (grid,) = board([fewer, result]).grids
    assert [row[4] for row in grid.rows if row[0] == title(fewer["cells"][0]["method"])] == [result["title"]]
