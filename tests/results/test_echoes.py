import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "results"))
import echoes

from resrope.posgen.presets import preset
from resrope.posgen.record import open_run
from resrope.spec import frequencies

SETTINGS = preset("small")
TABLE = frequencies(SETTINGS.spec("rope"))


def record(falls, method="rope", task="cot"):
    """A cell that is always right up to where it falls, position by position."""
    right = np.full(256, 1000)
    for position, by in falls.items():
        right[position:] -= round(1000 * by)
    return {
        "cell": {"task": task, "method": method, "seed": 0},
        "embedding": {"testing": TABLE.to_dict()},
        "last": {"rows": 1000, "correct_by_position": right.tolist()},
    }


def test_falls_where_the_table_says():
    fall, curve = echoes.measured("small", SETTINGS, [record({80: 0.3, 105: 0.2})], TABLE)
    assert fall.peaks == [76, 101, 134, 177]
    assert fall.steps == [80, 105]
    assert fall.share == pytest.approx(1)
    assert fall.positions == pytest.approx(4 * 6 / 192)
    assert fall.chance < 0.05
    assert fall.falls[80] == pytest.approx(0.3)
    assert curve.shape == (256,)


def test_falls_elsewhere_and_none_at_all():
    fall, _ = echoes.measured("small", SETTINGS, [record({90: 0.3, 220: 0.1})], TABLE)
    assert (fall.steps, fall.share, fall.chance) == ([90, 220], 0, 1)
    assert echoes.measured("small", SETTINGS, [record({})], TABLE)[0].share == 0


def test_cells_are_averaged_and_positions_without_a_rule_left_out():
    """On semi-recursive even positions have no near rule: a fall there is met at the next odd one."""
    fall, _ = echoes.measured("small", SETTINGS, [record({80: 0.3}), record({})], TABLE)
    assert fall.falls[80] == pytest.approx(0.15)
    fall, _ = echoes.measured("small", SETTINGS, [record({80: 0.3}, task="semi-recursive")], TABLE)
    assert fall.steps == [81]


def test_the_page(tmp_path):
    run = tmp_path / "small"
    open_run(run, "small", SETTINGS)
    (run / "records.json").write_text(json.dumps([record({80: 0.3})]))
    echoes.main([run], tmp_path)
    page = (tmp_path / "echoes.md").read_text()
    assert "| small | RoPE | 1 | 76, 101, 134, 177 | 80 | 100 |" in page
    assert json.loads((tmp_path / "echoes.json").read_text())[0]["steps"] == [80]
    assert (tmp_path / "echoes.png").read_bytes().startswith(b"\x89PNG")
