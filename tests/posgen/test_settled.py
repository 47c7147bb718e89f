import json

import numpy as np
import pytest

from resrope.posgen.record import SCHEMA, Cell, cell_folder, open_run
from resrope.posgen.report.page import write_report
from resrope.posgen.runner import matrix
from resrope.posgen.settled import level, read_settled, rounds
from resrope.stats import summarise

SEEDS = [0, 1, 2, 3, 4]


def right(cell):
    """Tokens right beyond the training length, of 10: Resonance adds 3 to RoPE, to YaRN now more, now less;
    ALiBi has nothing beside it."""
    added = {"resonance-rope": 3, "resonance-yarn": (4, -2, 1, -3, 2)[cell.seed], "alibi": 1}
    return 4 + added.get(cell.method, 0)


def finish(out, settings, cell):
    beyond = settings.test_length - settings.train_length
    part = {"rows": 10, "correct_by_position": [0] * settings.train_length + [right(cell)] * beyond}
    made = {"seconds": 1.0, "threads": 1, "resrope": "0", "commit": "c", "date": "d", "torch": "2"}
    record = {
        "schema": SCHEMA,
        "settings": settings.to_dict(),
        "cell": {"task": cell.task, "method": cell.method, "seed": cell.seed},
        "embedding": {},
        "history": [{"step": 1, "epoch": 1.0, "validation_loss": 1.0, "ood": 0.5}],
        "last": part,
        "best": part,
        "made": {**made, "numpy": "2", "python": "3", "machine": "m", "processor": "p"},
    }
    folder = cell_folder(out, cell)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture
def cells():
    return matrix(["cot"], ["rope", "resonance-rope", "yarn", "resonance-yarn", "alibi"], SEEDS)


@pytest.mark.parametrize("held", ["[]", "{}", '{"verdicts": 3}', '{"verdicts": [{"task": "cot"}]}', "{"])
def test_a_damaged_file_is_said(tiny, tmp_path, cells, held):
    open_run(tmp_path, "quick", tiny)
    finish(tmp_path, tiny, cells[0])
    (tmp_path / "settled.json").write_text(held)
    with pytest.raises(ValueError, match=r"settled\.json"):
        read_settled(tmp_path)


def test_a_settled_pair_takes_no_more_seeds_and_the_others_do(tiny, tmp_path, cells):
    open_run(tmp_path, "quick", tiny)
    done = []
    for part in rounds(tmp_path, cells, tiny):
        for cell in part:
            finish(tmp_path, tiny, cell)
        done.append([cell.method for cell in part])
    every = ["rope", "resonance-rope", "yarn", "resonance-yarn", "alibi"]
    assert done == [every, every, every[2:], every[2:], every[2:]]
    (verdict,) = read_settled(tmp_path)
    assert (verdict["method"], verdict["seeds"], verdict["level"]) == ("rope", [0, 1], 1 - 0.05 / 4)
    assert verdict["effect"]["last"]["mean"] == pytest.approx(0.3)
    summary, files = write_report(tmp_path)
    line = next(line for line in files["report.md"].read_text().splitlines() if "Ended early" in line)
    assert "left 0 out at 98.75 %" in line
    assert "CoT, RoPE after 2 seeds (last step 30.0 ± 0.0 [30.0, 30.0])" in line
    assert summary["settled"] == [verdict]


def test_stopped_and_started_again_it_decides_the_same(tiny, tmp_path, cells):
    for cell in [cell for cell in cells if cell.seed < 2]:
        finish(tmp_path, tiny, cell)
    parts = []
    for part in rounds(tmp_path, cells, tiny):
        for cell in part:
            finish(tmp_path, tiny, cell)
        parts.append(len(part))
    assert parts == [5, 5, 3, 3, 3]


def test_a_verdict_stands_until_its_pair_has_all_seeds(tiny, tmp_path, cells):
    for part in rounds(tmp_path, cells, tiny):
        for cell in part:
            finish(tmp_path, tiny, cell)
    for seed in (2, 3):
        finish(tmp_path, tiny, Cell(task="cot", method="rope", seed=seed))
        assert [v["method"] for v in read_settled(tmp_path)] == ["rope"]
    finish(tmp_path, tiny, Cell(task="cot", method="rope", seed=4))
    assert read_settled(tmp_path) == []
    assert read_settled(tmp_path / "nothing") == []


def test_a_verdict_is_told_where_every_pair_is_settled_and_while_its_run_goes_on(tiny, tmp_path):
    pair = matrix(["cot"], ["rope", "resonance-rope"], SEEDS)
    for part in rounds(tmp_path, pair, tiny):
        for cell in part:
            finish(tmp_path, tiny, cell)
    (verdict,) = read_settled(tmp_path)
    assert verdict["seeds"] == [0, 1]
    next(rounds(tmp_path, pair, tiny))  # and killed
    assert read_settled(tmp_path) == [verdict]


def test_all_looks_together_err_once_in_twenty_at_most():
    """Nothing there, four looks: how often one of their intervals leaves 0 out."""
    random = np.random.default_rng(0)
    wrong = 0
    for values in random.normal(size=(4000, len(SEEDS))):
        looks = (summarise(values[:n].tolist(), level(len(SEEDS))) for n in range(2, len(SEEDS) + 1))
        wrong += any(look.low > 0 or look.high < 0 for look in looks)
    assert 0.03 < wrong / 4000 < 0.05
