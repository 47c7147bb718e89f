import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "results"))
import wavelengths

from resrope.posgen.presets import preset
from resrope.spec import frequencies

SETTINGS = preset("small")
LISTED = SETTINGS.override({"wavelengths": [6, 7]})
TABLE = frequencies(SETTINGS.spec("resonance-rope")).to_dict()


def record(method, seed, right):
    """A cell that is right in so many of ten sequences at every position beyond."""
    return {
        "cell": {"task": "cot", "method": method, "seed": seed},
        "embedding": {"testing": TABLE},
        "last": {"rows": 10, "correct_by_position": [0] * 64 + [right] * 192},
    }


def test_choices_of_several_runs_paired_by_seed(kept, tmp_path):
    small = kept("small", SETTINGS, *(record("rope", s, 4) for s in (0, 1)), record("yarn", 0, 9))
    other = kept("other", LISTED, record("listed-rope", 1, 6), record("p-rope", 0, 9), record("rope", 0, 1))
    wavelengths.main([small, other], tmp_path)
    page = (tmp_path / "wavelengths.md").read_text()
    fast = "6, 8, 11, 15, 20, 26, 35, 47, 63 | 240 (0.70)"
    assert f"| RoPE | {fast} | 40.0 |  |" in page  # the run that is given first holds
    assert f"| Listed RoPE | {fast} | 60.0 | +20.0 |" in page  # of the one seed that both have
    assert "YaRN" not in page
    assert "p-RoPE" not in page


def test_an_interval_over_seeds(kept, tmp_path):
    seeds = [record("rope", s, 4) for s in (0, 1)] + [record("resonance-rope", s, 5 + s) for s in (0, 1)]
    wavelengths.main([kept("small", SETTINGS, *seeds)], tmp_path)
    said = (tmp_path / "wavelengths.md").read_text()
    assert "Distinct RoPE has the table of Resonance RoPE here" in said
    assert "Prime RoPE" not in said
    # 15 ± 12.706 · 7.071 / √2
    assert "| 55.0 | +15.0 [-48.5, +78.5] |" in (tmp_path / "wavelengths.md").read_text()


def test_runs_that_cannot_be_compared(kept, tmp_path):
    small = kept("small", SETTINGS, record("rope", 0, 4))
    with pytest.raises(ValueError, match="settings other than wavelengths must be those of"):
        wavelengths.main([small, kept("quick", preset("quick"), record("rope", 0, 4))], tmp_path)
    with pytest.raises(ValueError, match="must hold method rope"):
        wavelengths.main([kept("none", LISTED, record("listed-rope", 0, 4))], tmp_path)
    assert not (tmp_path / "wavelengths.md").exists()
