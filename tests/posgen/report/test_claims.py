import pytest

from resrope.posgen.presets import TABLE_1_METHODS
from resrope.posgen.report.claims import FAILS, HOLDS, UNDECIDED, claims, grid

SEEDS = 6
NOISE = (1, -1, 1, -1, 1, -1)  # of seeds, in tokens of 1000


def run(tiny, right, losses):
    """Records of one task: tokens right of 1000 at every OOD position, validation losses by look."""
    settings = tiny.override({"test_rows": 1000})
    records = []
    for method in TABLE_1_METHODS:
        for seed in range(SEEDS):
            beyond = settings.test_length - settings.train_length
            correct = [0] * settings.train_length + [right(method, seed)] * beyond
            part = {"rows": 1000, "correct_by_position": correct}
            history = [{"step": i, "validation_loss": loss} for i, loss in enumerate(losses(method, seed))]
            cell = {"task": "semi-recursive", "method": method, "seed": seed}
            records.append({"cell": cell, "last": part, "history": history})
    return {claim.words.removeprefix("Semi-recursive: "): claim for claim in claims(settings, records)}


def verdicts(found):
    """Of the claims that are judged."""
    return {claim.verdict for words, claim in found.items() if "spread" not in words}


def test_a_world_in_which_the_paper_is_right(tiny):
    def right(method, seed):
        level = {"rope": 200, "resonance-rope": 300, "yarn": 350, "resonance-yarn": 500}[method]
        wide = 1 if "resonance" in method else 20
        return level + wide * NOISE[seed] + seed

    def losses(method, seed):
        level = {"rope": 4.0, "resonance-rope": 2.0, "yarn": 3.0, "resonance-yarn": 1.0}[method]
        return [level + 0.5 + 0.01 * NOISE[seed], level + 0.02 * NOISE[seed - 1]]

    found = run(tiny, right, losses)
    assert verdicts(found) == {HOLDS}
    assert found["Resonance narrows RoPE's spread over seeds"].verdict == UNDECIDED
    assert list(found) == [
        *(
            words
            for method in ("RoPE", "YaRN")
            for words in (
                f"Resonance raises {method}'s OOD accuracy",
                f"Resonance narrows {method}'s spread over seeds",
                f"Resonance lowers {method}'s lowest validation loss",
                f"Resonance lowers {method}'s validation loss all along",
            )
        ),
        "Resonance YaRN is the most accurate of the four",
        "Resonance RoPE reaches a lower validation loss than YaRN",
    ]
    assert found["Resonance raises RoPE's OOD accuracy"].numbers.startswith("+10.0 [")  # of 1000 tokens 100
    assert found["Resonance YaRN is the most accurate of the four"].numbers.startswith("over YaRN +15.0 [")
    assert found["Resonance lowers YaRN's validation loss all along"].numbers.endswith("2 of 2 looks")


def test_a_world_in_which_it_is_wrong(tiny):
    def right(method, seed):
        level = {"rope": 500, "resonance-rope": 350, "yarn": 300, "resonance-yarn": 200}[method]
        wide = 20 if "resonance" in method else 1
        return level + wide * NOISE[seed] + seed

    def losses(method, seed):
        level = {"rope": 1.0, "resonance-rope": 3.0, "yarn": 2.0, "resonance-yarn": 4.0}[method]
        return [level + 0.01 * NOISE[seed], level + 0.02 * NOISE[seed - 1]]

    found = run(tiny, right, losses)
    assert verdicts(found) == {FAILS}


def test_a_world_without_a_difference(tiny):
    def right(method, seed):
        return 500 + 10 * ((hash_of(method) + 3 * seed) % 5)

    def losses(method, seed):
        return [1 + 0.1 * ((hash_of(method) + 2 * seed) % 5) for _ in range(3)]

    def hash_of(method):
        return TABLE_1_METHODS.index(method)

    found = run(tiny, right, losses)
    assert {claim.verdict for claim in found.values()} == {UNDECIDED}


def test_what_a_run_has_not_is_not_claimed(tiny):
    assert claims(tiny, []) == []
    assert grid([]).rows == []
    one = {"cell": {"task": "cot", "method": "rope", "seed": 0}, "last": {}, "history": []}
    assert claims(tiny, [one]) == []


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_decide_little(tiny, seeds):
    part = {"rows": 10, "correct_by_position": [0] * 12 + [5] * 12}
    records = [
        {
            "cell": {"task": "recursive", "method": method, "seed": seed},
            "last": part,
            "history": [{"step": 1, "validation_loss": 1.0}],
        }
        for method in ("rope", "resonance-rope")
        for seed in range(seeds)
    ]
    found = claims(tiny, records)
    assert [claim.verdict for claim in found] == [UNDECIDED] * 4
    assert found[0].words == "Recursive: Resonance lowers RoPE's OOD accuracy"  # the paper's exception
    assert found[1].numbers == ("one seed has no spread", "standard deviations 0.0 and 0.0")[seeds - 1]
