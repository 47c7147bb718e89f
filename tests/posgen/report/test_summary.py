import copy
import json
import re

import pytest

from resrope.posgen.cell import run_cell
from resrope.posgen.record import Cell, cell_folder, open_run
from resrope.posgen.report.figures import drawn_kinds
from resrope.posgen.report.page import write_report
from resrope.posgen.report.summary import PAPER_TABLE_1, embedding_used, rules_alone, summarise_run
from resrope.posgen.report.tables import all_grids, percent, share
from resrope.posgen.runner import matrix
from resrope.posgen.settings import Settings


@pytest.fixture
def run(tiny, tmp_path):
    """Two tasks, RoPE with and without Resonance, two seeds: one real cell, the others made from it."""
    open_run(tmp_path, "quick", tiny)
    record = run_cell(tmp_path, Cell(task="cot", method="rope", seed=0), tiny)
    cells = matrix(["cot", "semi-recursive"], ["rope", "resonance-rope"], [0, 1])
    for i, cell in enumerate(cells):
        made = copy.deepcopy(record)
        made["cell"] = {"task": cell.task, "method": cell.method, "seed": cell.seed}
        for checkpoint in ("last", "best"):
            beyond = tiny.test_length - tiny.train_length
            right = [0] * tiny.train_length + [i] * beyond
            made[checkpoint] |= {"rows": 10, "correct_by_position": right}
        folder = cell_folder(tmp_path, cell)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(made))
    return tmp_path


def test_summary_by_hand(run):
    """OOD accuracies are 0.0, 0.1 (cot), 0.2, 0.3 for seed 0 and 0.4 higher for seed 1."""
    summary, _ = summarise_run(run)
    assert (summary["tasks"], summary["methods"]) == (["cot", "semi-recursive"], ["rope", "resonance-rope"])
    assert summary["seeds"] == [0, 1]
    ood = summary["accuracy"]["cot"]["resonance-rope"]["last"]["ood"]
    assert ood["mean"] == pytest.approx(0.3)
    assert sorted(ood["values"]) == pytest.approx([0.1, 0.5])
    effect = summary["resonance_effect"]["semi-recursive"]["rope"]["last"]
    assert effect["mean"] == pytest.approx(0.1)
    assert effect["std"] == pytest.approx(0, abs=1e-12)


def test_what_scaling_adds(run):
    """The second of two methods has 0.1 more than the first at every seed."""
    for folder in run.glob("cells/*-resonance-rope-*"):
        record = json.loads((folder / "record.json").read_text())
        record["cell"]["method"] = "yarn"
        (folder / "record.json").write_text(json.dumps(record))
        folder.rename(folder.parent / folder.name.replace("resonance-rope", "yarn"))
    summary, _ = summarise_run(run)
    assert summary["scaling_effect"]["cot"]["yarn"]["best"]["values"] == pytest.approx([0.1, 0.1])
    assert summary["resonance_effect"] == {"cot": {}, "semi-recursive": {}}
    (table,) = (
        grid for grid in all_grids(summary) if grid.title == "What scaling adds to RoPE's OOD accuracy"
    )
    assert table.rows[0][0] == "CoT, YaRN"
    assert table.rows[0][-2:] == ["+10.0, +10.0", "–"]


def test_an_interval_of_shares_ends_at_none_and_all():
    wide = {"mean": 0.9, "std": 0.1, "low": 0.7, "high": 1.2}
    assert share(wide) == "90.0 ± 10.0 [70.0, 100.0]"
    assert share({**wide, "low": -0.1}) == "90.0 ± 10.0 [0.0, 100.0]"
    assert share({**wide, "std": None}) == "90.0"
    assert percent({**wide, "low": -1.7}) == "90.0 ± 10.0 [-100.0, 100.0]"
    assert share(None) == "–"


def test_the_papers_numbers_stand_only_beside_the_papers_task(run):
    assert summarise_run(run)[0]["paper"] == {}  # lengths 12 and 24 are not the paper's
    assert PAPER_TABLE_1["cot"]["resonance-yarn"] == 99.58


def test_which_yarn_was_used(tiny):
    assert "β_fast = 2, β_slow = 1, ramp linear in the feature index (rounded bounds)" in embedding_used(tiny)
    other = tiny.override({"ramp": "turns", "blend": "wavelength", "beta_fast": 32.0})
    assert "β_fast = 32, β_slow = 1, ramp linear in the L/λ, mixing wavelengths" in embedding_used(other)


def test_files(run):
    _, files = write_report(run)
    page = files["report.html"].read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file, nothing to load
    for grid in all_grids(summarise_run(run)[0]):
        assert grid.title in files["report.md"].read_text()
        assert all(len(row) == len(grid.header) for row in grid.rows)
    assert json.loads(files["report.json"].read_text())["preset"] == "quick"
    assert files["training.png"].read_bytes().startswith(b"\x89PNG")


def test_when_far_positions_are_learnt_is_drawn_where_there_are_some(run, tiny, tmp_path):
    assert "kinds.png" not in write_report(run)[1]
    far, out = tiny.override({"train_length": 40, "test_length": 48}), tmp_path / "far"
    open_run(out, "quick", far)
    record = run_cell(out, Cell(task="semi-recursive", method="rope", seed=0), far)
    assert write_report(out)[1]["kinds.png"].is_file()
    summary, records = summarise_run(out)
    figure = drawn_kinds(summary, records)
    titles = [axis.get_title() for axis in figure.axes[:3]]
    assert titles == [f"Semi-recursive: {kind}" for kind in ("near", "chained", "far")]
    told = [100 * look["ood_far"] for look in record["history"]]
    assert figure.axes[5].lines[0].get_ydata() == pytest.approx(told)


def test_one_seed_has_no_interval(run):
    for path in run.glob("cells/*seed1"):
        (path / "record.json").unlink()
    grid = all_grids(summarise_run(run)[0])[0]
    assert "one seed: no interval" in grid.note
    assert grid.rows[0][1] == "0.0"


def test_nothing_to_report(tiny, tmp_path):
    with pytest.raises(ValueError, match="must be the folder of a run"):
        summarise_run(tmp_path)
    open_run(tmp_path, "quick", tiny)
    with pytest.raises(ValueError, match="no finished cell yet"):
        summarise_run(tmp_path)


def test_seeds_that_ended_at_different_looks(run):
    """As patience makes them: the report is drawn from those that got to a look."""
    for file in run.glob("cells/*-seed1/record.json"):
        record = json.loads(file.read_text())
        record["history"] = record["history"][:2]
        file.write_text(json.dumps(record))
    assert write_report(run)[1]["training.png"].is_file()


def test_kernels_that_were_chosen_are_on_record(run, monkeypatch):
    from resrope.provenance import kernels

    for name in ("LD_PRELOAD", "MKL_CBWR", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    usual = kernels() or ""
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/libfast.so")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert set((kernels() or "").split()) == {*usual.split(), "LD_PRELOAD=libfast.so", "MKL_CBWR=AVX2"}


def test_rules_on_all_that_training_reads_solve_most_far_positions_of_the_sum():
    found = rules_alone(Settings(), "semi-recursive")
    assert list(found) == ["5", "16", "63"]
    assert [found[w]["ood_far"] for w in found] == pytest.approx([1 / 17, 1 / 17, 44 / 51])
    assert found["63"]["in_distribution"] is None  # there it reads everything
    assert list(rules_alone(Settings().override({"train_length": 16}), "cot")) == ["5", "16"]
