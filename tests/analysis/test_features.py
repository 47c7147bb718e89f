import json
import math

import pytest

import resrope
from resrope.analysis import feature_gap, feature_table
from resrope.analysis.plots import draw

YARN = resrope.Yarn(factor=4, original_max_position_embeddings=64, beta_fast=2)
SPEC = resrope.RopeSpec(head_dim=64, scaling=YARN, resonance=True)


def test_columns_are_what_they_say():
    table = feature_table(SPEC, 64, 256)
    plain, scaled, resonant = (
        resrope.frequencies(resrope.RopeSpec(head_dim=64, scaling=s, resonance=r))
        for s, r in ((None, False), (YARN, False), (YARN, True))
    )
    assert table.method == "resonance-yarn"
    assert [f.wavelength for f in table.features] == list(plain.wavelengths)
    assert [f.scaled for f in table.features] == list(scaled.wavelengths)
    assert [f.resonant for f in table.features] == list(resonant.periods)
    assert [f.gap_before for f in table.features] == list(feature_gap(scaled, 64, 256).per_feature)
    assert [f.gap_after for f in table.features] == list(feature_gap(resonant, 64, 256).per_feature)
    for f in table.features:
        assert f.scaled * (1 + f.shift_percent / 100) == pytest.approx(f.resonant)
        assert f.pre_critical == (f.scaled < 64)


def test_totals():
    totals = feature_table(SPEC, 64, 256).totals()
    periods = resrope.frequencies(SPEC).periods
    assert totals["pre_critical"] == 7
    assert totals["common_period"] == math.lcm(*periods[:7])
    assert totals["pre_critical_max_gap_after"] == 0.0 < totals["pre_critical_max_gap_before"]
    assert totals["attention_factor"] == pytest.approx(0.1 * math.log(4) + 1)


def test_features_that_never_turn_are_null_in_json():
    spec = resrope.RopeSpec(head_dim=16, partial_rotary_factor=0.5, scaling=resrope.Proportional())
    data = json.loads(json.dumps(feature_table(spec, 32, 64).to_dict(), allow_nan=False))
    assert len(data["features"]) == 8
    assert data["features"][7]["scaled"] is None
    assert data["features"][7]["gap_before"] == 0.0


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    draw(SPEC, feature_table(SPEC, 64, 128), 6, path)
    assert path.stat().st_size > 10_000
    with pytest.raises(ValueError, match="feature must be in 0 … 31, got 32"):
        draw(SPEC, feature_table(SPEC, 64, 128), 32, path)
