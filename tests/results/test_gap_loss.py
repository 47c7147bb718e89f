import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "results"))
import gap_loss

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
METHODS = ["rope", "resonance-rope", "yarn", "resonance-yarn"]


@pytest.fixture
def report(tmp_path):
    """report(**changes) -> a study whose second text ends within the trained length."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    def make(**changes):
        curves = {m: {"64": 10.0, "96": 12.0 + i, "128": 15.0 - i} for i, m in enumerate(METHODS)}
        short = {"64": 20.0, "96": None, "128": None}
        study = {
            "model": str(tmp_path / "config.json"),
            "native_length": 64,
            "target_length": 128,
            "lengths": [64, 96, 128],
            "window": None,
            "texts_by_length": {"64": 2, "96": 1, "128": 1},
            "methods": {
                m: {"made_for": 128, "by_text": {"long": c, "short": short}} for m, c in curves.items()
            },
            **changes,
        }
        folder = tmp_path / "figure-4-tiny"
        folder.mkdir(exist_ok=True)
        (folder / "report.json").write_text(json.dumps(study))
        return folder / "report.json"

    return make


def test_rises_and_texts_by_hand(report):
    points = {(p["method"], p["length"]): p for p in gap_loss.study_points(report())}
    assert len(points) == 8
    found = points["resonance-yarn", 96]
    assert found["rise"] == pytest.approx(math.log(15.0 / 10.0))
    assert (found["texts"], found["corpus"]) == (1, "tiny")
    assert points["rope", 96]["distance"] == pytest.approx(points["rope", 96]["gap"]), (
        "its own table was trained"
    )
    assert points["resonance-rope", 128]["gap"] < points["rope", 128]["gap"]


def test_each_length_has_a_correlation_of_its_own():
    points = [
        {"corpus": "a", "texts": 3, "length": n, "gap": g, "distance": 1, "far": -g, "rise": g + 100 * n}
        for n in (1, 2)
        for g in (1, 2, 3)
    ]
    one, two = gap_loss.ranks(points)
    assert (one["gap"], one["far"]) == (pytest.approx(1), pytest.approx(-1))
    assert (one["distance"], one["texts"]) == (None, 3)
    assert two["gap"] == pytest.approx(1)


def test_ties_share_their_rank():
    assert gap_loss.rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def test_the_files(report, tmp_path):
    gap_loss.main([report()], tmp_path)
    told = json.loads((tmp_path / "gap-loss.json").read_text())
    assert [p["method"] for p in told["pairs"]] == ["rope", "rope", "yarn", "yarn"]
    assert "makes the mean gap smaller in" in (tmp_path / "gap-loss.md").read_text()
    assert (tmp_path / "gap-loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 32}, "no windows"),
        ({"lengths": [64]}, "and beyond"),
        ({"lengths": [96, 128]}, "lengths up to 64"),
        ({"methods": {}}, "method rope"),
        ({"target_length": 256}, "rope was made with parameters that its name does not tell"),
    ],
)
def test_a_report_that_cannot_tell(report, changes, words):
    with pytest.raises(ValueError, match=words):
        gap_loss.study_points(report(**changes))
