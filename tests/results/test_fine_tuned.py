import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "results"))
import fine_tuned

LENGTHS = [64, 128, 256]
RECORD = {
    "recipe": {
        "steps": 2,
        "length": 64,
        "precision": "bf16",
        "learning_rate": 2e-5,
        "parameters": {"factor": 4},
    },
    "texts": {"chunks": 4, "documents": {"a": 1, "b": 1}},
    "history": [
        {"step": 0, "eval_loss": 1.0, "seconds": 1.0},
        {"step": 1, "loss": 3.0, "seconds": 2.0},
        {"step": 2, "loss": 2.0, "seconds": 2.0},
        {"step": 2, "eval_loss": 0.5, "seconds": 1.0},
    ],
    "starts": [{"commit": "abc"}],
}


def reading(scale):
    """Two texts whose tokens have the same loss within a stretch: 1, 2 and 3 nats, and the first two."""
    whole = {"64": math.exp(1), "128": math.exp((63 * 1 + 64 * 2) / 127)}
    whole["256"] = math.exp((63 * 1 + 64 * 2 + 128 * 3 * scale) / 255)
    short = {**whole, "256": None}
    found = {"by_text": {"long": whole, "short": short}, "commits": ["abc"]}
    keys = {"model": "m", "texts": {}, "seconds": 1, "made": {}}
    return {**keys, "lengths": LENGTHS, "methods": {"own": found}}


@pytest.fixture
def folder(tmp_path):
    scales = {"resonance-yarn-before": 1, "yarn-before": 1, "resonance-yarn-seed0": 0.9, "yarn-seed0": 1}
    scales |= {"resonance-yarn-seed1": 0.8, "yarn-seed1": 1.1}
    for name, scale in scales.items():
        where = tmp_path / "read" / name / "math"
        where.mkdir(parents=True)
        (where / "report.json").write_text(json.dumps(reading(scale)))
        if "seed" in name:
            (tmp_path / name).mkdir()
            (tmp_path / name / "record.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_stretches_by_hand(folder):
    found = fine_tuned.read(folder)
    assert found.seeds == ["seed0", "seed1"]
    assert found.lengths == LENGTHS
    texts = fine_tuned.texts_of(found, ["math"])
    assert texts == [("math", "long"), ("math", "short")]
    tally = fine_tuned.nats(found.readings["yarn", "seed0"], texts, LENGTHS)
    assert tally.tokens.tolist() == [[63, 64, 128], [63, 64, 0]]
    assert all(math.isclose(a, math.exp(b)) for a, b in zip(tally.perplexity(), (1, 2, 3), strict=True))


def test_ratios_by_hand(folder):
    found = fine_tuned.read(folder)
    by_state = {
        s: fine_tuned.compared(found, s, ["math"])[-1].ratio for s in (*found.states(["math"]), "seeds")
    }
    wanted = {"before": 0.0, "seed0": 3 * -0.1, "seed1": 3 * -0.3, "seeds": 3 * -0.2}
    assert by_state == pytest.approx({s: math.exp(v) for s, v in wanted.items()})
    resonant, plain = fine_tuned.between_seeds(found, ["math"])
    assert math.isclose(resonant[-1].ratio, math.exp(-0.3))
    assert math.isclose(plain[-1].ratio, math.exp(0.3))


def test_a_corpus_that_is_not_read_before_has_no_before(folder):
    for name in ("resonance-yarn-seed0", "yarn-seed0", "resonance-yarn-seed1", "yarn-seed1"):
        other = folder / "read" / name / "emma"
        other.mkdir()
        (other / "report.json").write_text(json.dumps(reading(1)))
    found = fine_tuned.read(folder)
    assert found.corpora == ["emma", "math"]
    assert found.states(["math"]) == ["before", "seed0", "seed1"]
    assert found.states(["emma"]) == found.states(["math", "emma"]) == ["seed0", "seed1"]
    (folder / "read" / "yarn-seed1" / "emma" / "report.json").unlink()
    assert fine_tuned.read(folder).corpora == ["math"]


def test_the_page(folder, tmp_path):
    fine_tuned.main(folder, tmp_path / "page")
    page = (tmp_path / "page" / "report.md").read_text()
    assert "| fine-tuned, seed 0 | 1.0000 | 1.0000 | 0.7408 |" in page
    assert "seconds: resonance-yarn-seed0 6, resonance-yarn-seed1 6, yarn-seed0 6, yarn-seed1 6" in page
    assert {f.name for f in (tmp_path / "page").iterdir()} == {
        *("report.md", "report.json", "positions.png", "training.png")
    }
    kept = json.loads((tmp_path / "page" / "report.json").read_text())
    assert kept["readings"]["yarn-before"]["math"]["by_text"]["long"]["64"] == pytest.approx(math.e)


def test_nothing_to_compare_is_said(tmp_path):
    with pytest.raises(ValueError, match="no seed was read with both"):
        fine_tuned.main(tmp_path)
