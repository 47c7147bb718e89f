import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "results"))
import echoes

from resrope.posgen.presets import preset
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


def fall_of(*records):
    (found,) = echoes.falls("small", SETTINGS, records)
    return found


def test_falls_where_the_table_says():
    fall = fall_of(record({80: 0.3, 105: 0.2}))
    assert fall.peaks == [76, 101, 134, 177]
    assert fall.steps == [80, 105]
    assert fall.net == pytest.approx(0.5)
    assert fall.share == pytest.approx(1)
    assert fall.positions == pytest.approx(4 * 6 / 192)
    assert fall.chance < 0.05
    assert fall.falls[80] == pytest.approx(0.3)
    assert fall.other is None


def test_falls_elsewhere_and_none_at_all():
    fall = fall_of(record({90: 0.3, 220: 0.1}))
    assert (fall.steps, fall.share, fall.chance) == ([90, 220], 0, 1)
    nothing = fall_of(record({}))
    assert (nothing.share, nothing.chance, nothing.net) == (None, None, 0)


def test_noise_that_goes_up_again_is_no_fall():
    fall = fall_of(record({80: 0.3, 90: 0.1, 91: -0.1}))
    assert fall.net == pytest.approx(0.3)
    assert fall.share == pytest.approx(1)


def test_positions_without_a_rule_are_left_out():
    """On semi-recursive even positions have no near rule: a fall there is met at the next odd one, and may be
    of either."""
    assert fall_of(record({80: 0.3}), record({})).falls[80] == pytest.approx(0.15)
    fall = fall_of(record({82: 0.3}, task="semi-recursive"))
    assert (fall.steps, fall.share) == ([83], 0)
    assert fall_of(record({81: 0.3}, task="semi-recursive")).share == pytest.approx(1)
    assert fall_of(record({75: 0.3}, task="semi-recursive")).share == 0
    assert fall_of(record({76: 0.3}, task="semi-recursive")).share == pytest.approx(1)


def test_the_other_table():
    """A fall at 124 is at 120 + 4, where YaRN's wavelengths recur with Resonance and not without."""
    plain, resonant = (frequencies(SETTINGS.spec(name)) for name in ("yarn", "resonance-yarn"))
    records = [
        {**record({124: 0.3}, method="yarn"), "embedding": {"testing": plain.to_dict()}},
        {**record({124: 0.3}, method="resonance-yarn"), "embedding": {"testing": resonant.to_dict()}},
    ]
    one, other = echoes.falls("small", SETTINGS, records)
    assert (one.share, one.other) == (0, pytest.approx(1))
    assert (other.share, other.other) == (pytest.approx(1), 0)


def test_what_has_no_table_is_left_out():
    learned = {**record({80: 0.3}, method="learned"), "embedding": {}}
    drawn = record({80: 0.3}, method="randomised-rope")
    assert list(echoes.falls("small", SETTINGS, [learned, drawn])) == []


def test_the_page(kept, tmp_path):
    echoes.main([kept("small", SETTINGS, record({80: 0.3}))], tmp_path)
    page = (tmp_path / "echoes.md").read_text()
    assert "| small, CoT, RoPE | 1 | 76, 101, 134, 177 | 80 | 30 | 100 | 12 |" in page
    assert json.loads((tmp_path / "echoes.json").read_text())[0]["steps"] == [80]
    assert (tmp_path / "echoes.png").read_bytes().startswith(b"\x89PNG")


def test_cells_that_a_run_took_over_are_told_once(kept, tmp_path):
    one, same, other = (
        kept(name, SETTINGS, record({at: 0.3})) for name, at in (("one", 80), ("same", 80), ("other", 90))
    )
    echoes.main([one, same, other], tmp_path)
    told = json.loads((tmp_path / "echoes.json").read_text())
    assert [(f["run"], f["steps"]) for f in told] == [("one", [80]), ("other", [90])]


def test_runs_that_cannot_be_beside_one_another(kept, tmp_path):
    one = kept("one", SETTINGS, record({80: 0.3}))
    other = kept("other", SETTINGS.override({"test_length": 192}), record({80: 0.3}))
    with pytest.raises(ValueError, match="other: j, k, lengths and eos_prefix must be those of"):
        echoes.main([one, other], tmp_path)
    with pytest.raises(ValueError, match="nothing must be a kept run"):
        echoes.main([tmp_path / "nothing"], tmp_path)
    assert not (tmp_path / "echoes.md").exists()
