import json
import runpy

from tests.results.test_leaderboard import RESULTS

METHODS = ("rope", "resonance-rope", "yarn", "resonance-yarn")


def rung(scaled, percents, *, taken=(), changed=()):
    """Of one task and two seeds; percents: of METHODS; taken: those of the rung above."""
    values = {m: [p / 100, p / 100 + 0.02] for m, p in zip(METHODS, percents, strict=True)}
    best = {m: {"best": {"ood": {"values": v}, "in_distribution": {"values": v}}} for m, v in values.items()}
    return {
        "settings": {"scale_in_training": scaled},
        "tasks": ["cot"],
        "methods": [*METHODS],
        "seconds": {f"cot-{m}-seed{s}": 0.0 if m in taken else 1.0 for m in METHODS for s in (0, 1)},
        "accuracy": {"cot": best},
        "switch_effect": {"cot": {"yarn": {"values": [v / 100 for v in changed]}}} if changed else {},
    }


def test_what_is_counted():
    ladder = {
        "released": rung(False, (30, 40, 50, 45)),
        "scaling": rung(True, (30, 40, 20, 60), taken=METHODS[:2], changed=(-30, 5)),
    }
    pairs, switches, learnt = runpy.run_path(str(RESULTS / "ladder.py"))["counts"](ladder)
    assert [row[1:] for row in pairs.rows] == [
        ["2 of 2", "0", "+20.0 to +20.0"],
        ["2 of 2", "0", "+5.0 to +5.0"],
        ["0 of 2", "2", "-10.0 to -10.0"],
        ["2 of 2", "0", "+20.0 to +20.0"],
        ["2 of 2", "0", "+10.0 to +10.0"],  # those of the second rung are the first one's
        ["2 of 4", "2", "-5.0 to +40.0"],
    ]
    assert switches.rows == [["scaling", "1 of 2", "1", "-30.0 to +5.0"]]
    assert learnt.rows == [["released, cot", "30.0 to 52.0"], ["scaling, cot", "20.0 to 62.0"]]
    assert "2.0 points of OOD accuracy apart in the median, 2.0 at most" in learnt.note


def test_the_page_of_results_says_what_is_counted():
    counts = runpy.run_path(str(RESULTS / "ladder.py"))["counts"]
    pairs, *_ = counts(json.loads((RESULTS / "audit" / "audit.json").read_text("utf-8")))
    tested, also, trained, too, rope, yarn = (int(row[1].split()[0]) for row in pairs.rows)
    said = " ".join((RESULTS / "README.md").read_text("utf-8").split())
    assert f"in all {tested + also} pairs of the four rungs" in said
    assert f"it is better in {trained + too} of 60" in said
    assert f"above plain in {yarn} of 54 pairs with YaRN and in {rope} of 36 with RoPE" in said
