import math
from itertools import combinations

import pytest

import resrope
from resrope.posgen.cell import run_cell
from resrope.posgen.embeddings import embedding
from resrope.posgen.embeddings.wavelengths import CHOICES, chosen, listed
from resrope.posgen.record import Cell, open_run, read_run

ROPE = resrope.frequencies(resrope.RopeSpec(head_dim=64))


def test_by_hand():
    """Wavelengths 6.28, 8.38, 11.17, 14.90, 19.87, … of head_dim 64 at theta 10000."""
    assert chosen(ROPE, "distinct").periods[:5] == (6, 8, 11, 15, 20)
    assert chosen(ROPE, "prime").periods[:5] == (7, 11, 13, 17, 19)
    assert chosen(ROPE, "coprime").periods[:5] == (6, 7, 11, 13, 19)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["rope", "yarn", "linear"])
def test_every_choice_keeps_its_word_and_stays_near(choice, name, tiny):
    settings = tiny.override({"head_dim": 64})
    tables = embedding(f"{choice}-{name}", settings, 0).tables
    plain = embedding(name, settings, 0).tables
    for training in (True, False):
        periods, wavelengths = tables[training].periods, plain[training].wavelengths
        assert len(set(periods)) == 32
        assert tables[training].attention_factor == plain[training].attention_factor
        if choice == "prime":
            assert all(p > 1 and all(p % n for n in range(2, math.isqrt(p) + 1)) for p in periods)
        if choice == "coprime":
            assert all(math.gcd(a, b) == 1 for a, b in combinations(periods, 2))
        assert all(abs(p - w) < max(10, 0.1 * w) for p, w in zip(periods, wavelengths, strict=True))


def test_crowded_wavelengths_make_room():
    crowded = resrope.Frequencies(inv_freq=(math.tau / 6.1, math.tau / 6.2, 0.0, math.tau / 6.3))
    assert chosen(crowded, "distinct").periods == (5, 6, 1, 7)


def test_listed_ones_and_their_run(tiny, tmp_path):
    settings = tiny.override({"wavelengths": [11, 7, 100, 5]})
    position = embedding("listed-rope", settings, 0)
    assert position.tables[True].periods == (5, 7, 11, 100)
    record = run_cell(tmp_path / "cell", Cell(task="cot", method="listed-rope", seed=0), settings)
    assert record["embedding"]["testing"]["periods"] == [5, 7, 11, 100]
    for _ in range(2):
        open_run(tmp_path / "run", "quick", settings)
    assert read_run(tmp_path / "run") == ("quick", settings)
    with pytest.raises(ValueError, match="wavelengths must be 4 integers, one a feature, got 0"):
        embedding("listed-rope", tiny, 0)
    with pytest.raises(ValueError, match="every one of wavelengths must be an integer >= 1"):
        tiny.override({"wavelengths": [5, 0]})
    assert listed(ROPE, range(1, 33)).periods == tuple(range(1, 33))
