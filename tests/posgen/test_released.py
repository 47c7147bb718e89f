"""What the authors' code does otherwise: every switch alone, and the ladder of all of them."""

import json
from dataclasses import asdict
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from resrope.posgen import cell as cells
from resrope.posgen.cell import run_cell
from resrope.posgen.evaluate import evaluate
from resrope.posgen.presets import PRESETS, SEEDS, SWITCHES, preset, released
from resrope.posgen.record import Cell, read_record
from resrope.posgen.report.audit import alone, held, ladder, open_all, verdict, write_audit
from resrope.posgen.splits import make_splits
from resrope.posgen.tasks import Task
from resrope.stats import summarise

COT = Cell(task="cot", method="yarn", seed=0)


def test_the_preset_is_their_setting():
    found = preset("released")
    assert (found.n_layers, found.original_length, found.beta_fast) == (6, 257, 2.0)
    assert found.factor == 257 / 65
    assert not found.scale_in_training
    assert found.looks == 75
    assert (found.best_by, found.patience, found.split, found.eos_prefix) == (
        "accuracy",
        100,
        "released",
        True,
    )
    assert not found.train_feed_forward
    assert found.model.vocab_size == 18
    assert (preset("small-released").d_model, SEEDS["small-released"]) == (128, (0, 1, 2, 3, 4))
    assert SEEDS["quick-released"] == (0,)


@pytest.mark.parametrize("name", ["quick", "small", "paper"])
def test_every_deviation_has_its_switch_and_flips_alone(name):
    """The switches are all that differs; each rung differs from the one before in its fields alone."""
    paper = PRESETS[name]
    theirs = released(paper)
    differing = {k for k, v in asdict(theirs).items() if v != asdict(paper)[k]}
    assert differing <= {field for fields in SWITCHES.values() for field in fields}
    rungs = ladder(paper)
    assert (rungs[0].settings, rungs[-1].settings) == (theirs, paper)
    assert [r.name for r in rungs] == ["released", *SWITCHES]
    for one, rung in pairwise(rungs):
        changed = {k for k, v in asdict(rung.settings).items() if v != asdict(one.settings)[k]}
        assert changed
        assert changed <= set(SWITCHES[rung.name])
    assert len({repr(r.settings) for r in alone(paper)}) == len(SWITCHES) + 1


def test_their_splits_are_training_rows():
    splits = make_splits(Task(name="cot"), seed=0, split="released")
    rising = list(combinations(range(17), 4))
    assert len(rising) == 2380
    assert [tuple(row) for row in splits.train[:2380, :4].tolist()] == rising
    assert np.array_equal(splits.train[2380:4760], splits.train[:2380])
    assert np.array_equal(splits.validation[:, :64], splits.train[:1000])
    assert np.array_equal(splits.test[:, :64], splits.train[1000:2000])
    assert splits.test.shape == (1000, 256)
    counts = np.unique(splits.train, axis=0, return_counts=True)[1]
    assert set(counts.tolist()) == {4, 5}
    with pytest.raises(ValueError, match=r"modulus must be >= j\+k = 4 for split = released, got 3"):
        make_splits(Task(name="cot", modulus=3), train=5, validation=2, test=2, seed=0, split="released")


def test_feed_forward_weights_stay_as_they_were_drawn(tiny, tmp_path):
    settings = tiny.override({"train_feed_forward": False})
    work = cells.prepared(COT, settings)
    before = {k: v.detach().clone() for k, v in work.trainer.model.state_dict().items()}
    list(work.trainer.losses(5))
    changed = {k for k, v in work.trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if not k.endswith((".wi", ".wo", ".feed_forward_norm"))}
    again = cells.prepared(COT, settings)
    again.trainer.restore(work.trainer.state(), 5)
    assert list(again.trainer.losses(8)) == list(work.trainer.losses(8))


def test_at_the_papers_size_a_third_trains():
    """2.11 of 6.31 million parameters at two layers (embedding and norms among them)."""
    from resrope.posgen.model import Decoder

    model = Decoder(preset("paper").model, seed=0)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert abs(sum(sizes.values()) - 6.31e6) < 0.01e6
    assert abs(sum(n for k, n in sizes.items() if not k.endswith((".wi", ".wo"))) - 2.11e6) < 0.01e6


def test_a_token_before_the_sequence(tiny):
    settings = tiny.override({"eos_prefix": True})
    work = cells.prepared(COT, settings)
    plain = cells.prepared(COT, tiny)
    assert (work.trainer.tokens[:, 0] == 17).all()
    assert torch.equal(work.trainer.tokens[:, 1:], plain.trainer.tokens)
    assert len(work.where(24)) == 24
    seen = evaluate(work.trainer.model, work.where, work.test, 4, before=1)
    assert seen.correct.shape == seen.loss.shape == (24,)
    assert (seen.correct[:4] == 0).all()
    assert (seen.loss[4:] > 0).all()


def test_what_is_predicted_does_not_shift_by_the_token_before(tiny):
    """A model that knows all but one answer is wrong at that position alone."""
    work = cells.prepared(COT, tiny.override({"eos_prefix": True}))

    class Knows:
        def __call__(self, tokens, where):
            answers = torch.nn.functional.one_hot(work.test[: len(tokens), 1:], 18).float()
            answers[:, 11] = 0  # the query at 11 predicts the next token read, position 11 of the sequence
            return answers

    seen = evaluate(Knows(), work.where, work.test, 4, before=1)
    assert np.flatnonzero(seen.correct[4:] < seen.rows).tolist() == [7]


def test_the_best_checkpoint_by_accuracy_and_patience(tiny, tmp_path):
    """A rate of nearly nothing changes no answer: the first look stays the best, and two more end the run."""
    settings = tiny.override(
        {"best_by": "accuracy", "patience": 2, "epochs": 10, "looks": 10, "learning_rate": 1e-12}
    )
    record = run_cell(tmp_path, COT, settings)
    assert len(record["history"]) == 3
    assert record["best"]["step"] == record["history"][0]["step"]
    assert read_record(tmp_path, COT) == json.loads(json.dumps(record))
    longer = run_cell(tmp_path / "all", COT, settings.override({"patience": None}))
    assert len(longer["history"]) == 10


def test_a_run_that_gave_up_and_was_killed_before_its_record_gives_up_again(tiny, tmp_path, monkeypatch):
    settings = tiny.override({"best_by": "accuracy", "patience": 1, "epochs": 10, "looks": 10})
    settings = settings.override({"learning_rate": 1e-12})
    with monkeypatch.context() as patch:
        patch.setattr(cells, "finish", lambda out, work: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_cell(tmp_path, COT, settings)
    assert len(run_cell(tmp_path, COT, settings)["history"]) == 2


def test_the_ladder_as_a_report(tiny, tmp_path):
    tiny = tiny.override({"epochs": 1, "looks": 1, "dropout": 0.0})
    rungs = ladder(tiny)
    folders = open_all(tmp_path, "quick", rungs)
    assert [f.name for f in folders][:2] == ["0-released", "1-layers"]
    with pytest.raises(ValueError, match="no finished cell yet"):
        write_audit(tmp_path, rungs)
    methods = ("yarn", "resonance-yarn")
    for folder, rung in zip(folders[:3], rungs, strict=False):
        for method in methods:
            run_cell(folder, Cell(task="cot", method=method, seed=0), rung.settings)
    grids, files = write_audit(tmp_path, rungs)
    assert [row[0] for row in grids[0].rows] == ["released", "layers", "split"]
    assert grids[2].rows[0][1].endswith(": undecided")  # one seed
    found = json.loads(files["audit.json"].read_text())
    (line,) = (line for line in files["audit.md"].read_text().splitlines() if "raises YaRN's OOD" in line)
    claim = line.strip("| ").split(" | ")
    assert claim[:2] == ["Resonance raises YaRN's OOD accuracy", "Table 1"]
    (effect,) = found["split"]["resonance_effect"]["cot"]["yarn"]["last"]["values"]
    assert claim[4] == f"undecided ({100 * effect:+.1f})"
    assert found["layers"]["claims"][0]["words"] == f"CoT: {claim[0]}"
    assert grids[3].rows[2] == ["undecided", *["4"] * 3]
    first, second = (
        found[r]["accuracy"]["cot"]["yarn"]["best"]["ood"]["mean"] for r in ("released", "layers")
    )
    assert [row[1] for row in grids[0].rows[:2]] == [f"{100 * x:.1f}" for x in (first, second)]
    assert found["released"]["switch_effect"] == {}
    assert found["layers"]["switch_effect"]["cot"]["yarn"]["values"] == [second - first]
    assert grids[1].rows[1][1] == f"{100 * (second - first):.1f}"
    assert files["audit.png"].read_bytes().startswith(b"\x89PNG")
    assert list(held(tmp_path).items()) == list(zip(folders, rungs, strict=True))
    assert held(tmp_path / "none") == {}
    open_all(tmp_path, "quick", rungs)
    with pytest.raises(ValueError, match="other settings: learning_rate"):
        open_all(tmp_path, "quick", ladder(tiny.override({"learning_rate": 0.5})))


def test_a_run_is_no_place_for_an_audit(tiny, tmp_path):
    from resrope.posgen.record import open_run

    open_run(tmp_path, "quick", tiny)
    with pytest.raises(ValueError, match="must be a folder for an audit, but it is that of a run"):
        open_all(tmp_path, "quick", ladder(tiny))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_other_runs_side_by_side_are_no_audit(tiny, tmp_path):
    from resrope.posgen.record import open_run

    for name in ("2024-03-tiny", "2025-04-tiny"):
        open_run(tmp_path / name, "quick", tiny)
    assert held(tmp_path) == {}
    open_all(tmp_path / "audit", "quick", ladder(tiny))
    (tmp_path / "audit" / "1-layers").rename(tmp_path / "audit" / "10-layers")
    assert held(tmp_path / "audit") == {}


def test_switches_thrown_alone_are_held_against_the_setting_itself(tiny, tmp_path):
    rungs = alone(tiny.override({"epochs": 1, "looks": 1, "dropout": 0.0}))
    for folder, rung in zip(open_all(tmp_path, "quick", rungs)[:3], rungs, strict=False):
        run_cell(folder, COT, rung.settings)
    _, files = write_audit(tmp_path, rungs)
    found = json.loads(files["audit.json"].read_text())
    first, third = (found[r]["accuracy"]["cot"]["yarn"]["best"]["ood"]["mean"] for r in ("paper", "split"))
    assert found["split"]["switch_effect"]["cot"]["yarn"]["mean"] == third - first


def test_a_report_says_what_was_thrown(tiny, tmp_path):
    from resrope.posgen.record import open_run
    from resrope.posgen.report.page import write_report

    settings = released(tiny.override({"epochs": 1, "looks": 1}))
    open_run(tmp_path, "quick-released", settings)
    run_cell(tmp_path, Cell(task="cot", method="alibi", seed=0), settings)
    page = write_report(tmp_path)[1]["report.md"].read_text()
    for words in (
        "validation and test rows are training rows, feed-forward weights stay as they were drawn",
        "one token before every sequence",
        "best accuracy",
        "Embeddings: none of them is scaled.",
    ):
        assert words in page
    assert "share no prefix" not in page
    assert "lowest loss" not in page


def test_switches_in_the_folder_of_a_ladder_make_nothing(tiny, tmp_path):
    open_all(tmp_path, "quick", ladder(tiny)[1:])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="other settings"):
        open_all(tmp_path, "quick", alone(tiny)[1:])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("rungs", [ladder, alone])
def test_no_switch_can_be_turned_of_the_authors_setting(rungs):
    with pytest.raises(ValueError, match="preset must be quick, small or paper, got"):
        rungs(preset("small-released"))


def test_verdicts():
    assert verdict(asdict(summarise([0.1, 0.11, 0.12]))) == "helps"
    assert verdict(asdict(summarise([-0.1, -0.11, -0.12]))) == "hurts"
    assert verdict(asdict(summarise([-0.1, 0.1]))) == "undecided"
    assert verdict(asdict(summarise([0.1]))) == verdict(None) == "undecided"
