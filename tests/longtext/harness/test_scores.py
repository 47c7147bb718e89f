"""What the harness is asked once, with which method, and what is made of its answers."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.longtext.harness.tiny import CHAT, LENGTH, QUESTION, one

from resrope.longtext import harness
from resrope.longtext.candidates import candidates
from resrope.longtext.harness import Evaluation, _leval, _metrics, evaluate
from resrope.longtext.leval import TASK_FOLDER
from resrope.longtext.leval.scoring import score
from resrope.longtext.leval.suite import run_suite, wanted_tasks
from resrope.longtext.store import Records
from resrope.models.apply import rope_of
from resrope.models.extension import extension


def test_the_method_that_is_asked_for_rotates(subject, data, watched):
    methods = candidates(["own", "yarn", "resonance-ntk:factor=4"], {"factor": 2.0})
    own = subject.model.model.rotary_emb.inv_freq.clone()
    list(run_suite(subject, methods, ["gsm100"], folder=data, length=LENGTH))
    rotated = [inv_freq for inv_freq, _ in watched]
    assert len(rotated) == 3
    for inv_freq, (name, factor) in zip(rotated[1:], [("yarn", 2.0), ("resonance-ntk", 4)], strict=True):
        (table,) = extension(rope_of(subject.model), name, factor=factor).tables().values()
        torch.testing.assert_close(inv_freq, torch.as_tensor(table.inv_freq, dtype=inv_freq.dtype))
    torch.testing.assert_close(rotated[0], own)
    torch.testing.assert_close(subject.model.model.rotary_emb.inv_freq, own)


@pytest.mark.usefixtures("watched")
def test_scores_are_those_of_what_the_model_said(subject, data):
    metadata = {"leval_data": str(data)}
    found = one(evaluate(subject, candidates([]), ["leval"], length=2048, batch_size=4, metadata=metadata))
    each = {task: found.scores[f"leval_{task}"]["leval_score"] for task in QUESTION}
    for task, (_, outputs) in QUESTION.items():
        said = [sample["resps"][0][0] for sample in found.samples[f"leval_{task}"]]
        if task == "sci_fi":
            said = [f"{a} [fact: {b}]" for a, b in zip(said[::2], said[1::2], strict=True)]
        assert each[task] == score(task, said, outputs)
    assert found.scores["leval"]["leval_score"] == pytest.approx(sum(each.values()) / 6)


@pytest.mark.usefixtures("watched")
def test_a_method_that_is_finished_is_not_asked_again(subject, data, tmp_path, asked):
    records, methods = Records(tmp_path / "scores"), candidates(["own", "yarn"], {"factor": 2.0})

    def run(**options):
        options = {"folder": data, "length": LENGTH, "records": records, **options}
        found = list(run_suite(subject, methods, ["gsm100"], **options))
        return [(r.method, r.scores, r.seconds) for r in found]

    first = run()
    assert len(asked) == 2
    assert run() == first
    assert len(asked) == 2
    run(limit=1)
    assert len(asked) == 4


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("change", ["file", "folder", "prompts", "task", "template"])
def test_what_decides_the_scores_is_asked_again(subject, data, tmp_path, asked, monkeypatch, change):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    package = Path(shutil.copytree(TASK_FOLDER.parent, tmp_path / "leval"))
    monkeypatch.setattr(harness, "TASK_FOLDER", package / "tasks")
    monkeypatch.setenv("LEVAL_DATA", str(folder))
    options = {"length": LENGTH, "max_length": 2 * LENGTH, "limit": 1, "apply_chat_template": True}

    def run():
        return one(
            evaluate(
                subject, candidates([]), ["leval_gsm100"], records=Records(tmp_path / "scores"), **options
            )
        )

    run()
    run()
    assert len(asked) == 1
    if change == "folder":
        folder = Path(shutil.copytree(data, tmp_path / "other"))
        monkeypatch.setenv("LEVAL_DATA", str(folder))
    if change in ("file", "folder"):
        file = folder / "gsm100.jsonl"
        file.write_text(file.read_text().replace("1 + 1", "1 + 0"))
    if change in ("prompts", "task"):
        file = package / {"prompts": "prompts.py", "task": "tasks/gsm100.yaml"}[change]
        file.write_text(file.read_text() + "# changed\n")
    if change == "template":
        monkeypatch.setattr(subject.tokenizer, "chat_template", CHAT + " ")
    run()
    assert len(asked) == 2


def test_the_files_of_l_eval_decide_where_its_tasks_may_be_asked(data, tmp_path, monkeypatch):
    named = {"leval_data": str(data)}
    assert _leval(["niah_single_1"], None, named) == ""
    of_files = _leval(["leval_tpo"], None, named)
    assert of_files == _leval(["mine"], tmp_path, named) != _leval(["leval"], None, {})
    monkeypatch.setenv("LEVAL_DATA", str(data))
    assert _leval(["leval"], None, {"leval_data": None}) == of_files
    assert _leval(["leval"], None, {"leval_data": str(tmp_path)}) == _leval(
        ["leval"], tmp_path, {"leval_data": "no"}
    )


def evaluations(monkeypatch, scores):
    """run_suite with a harness that finds ``scores``; what it was asked for."""
    asked = {}

    def found(subject, methods, tasks, **options):
        asked.update(options, tasks=tasks)
        return [Evaluation(method="own", scores=scores, samples={}, seconds=1.0)]

    monkeypatch.setattr("resrope.longtext.leval.suite.evaluate", found)
    return asked


def test_the_mean_is_that_of_all_six(monkeypatch):
    asked = evaluations(
        monkeypatch, {f"leval_{task}": {"leval_score": 10.0 * n} for n, task in enumerate(QUESTION)}
    )
    suite = one(run_suite(None, [], list(QUESTION), folder=None, length=4096, limit=3))
    assert suite.scores == {task: 10.0 * n for n, task in enumerate(QUESTION)}
    assert suite.mean == 25.0
    assert (asked["length"], asked["max_length"], asked["limit"]) == (4096, 4096 + 1024, 3)
    assert one(run_suite(None, [], ["tpo", "codeU"], folder=None, length=4096)).mean is None


def test_likelihoods_are_in_percent_too(monkeypatch):
    names = [f"leval_{task}_loglikelihood" for task in ("coursera", "quality", "tpo")]
    asked = evaluations(monkeypatch, {name: {"acc": 0.25 * n} for n, name in enumerate(names)})
    tasks = wanted_tasks([], None, loglikelihood=True)
    suite = one(run_suite(None, [], tasks, folder=None, length=4096, loglikelihood=True))
    assert suite.scores == {"coursera": 0.0, "quality": 25.0, "tpo": 50.0}
    assert suite.mean == 25.0
    assert asked["tasks"] == names


def test_metrics_are_what_was_measured():
    row = {"alias": "x", "acc,none": 1, "acc_stderr,none": 0.1, "f1_stderr,none": "N/A", "em,strict": -1.0}
    assert _metrics({**row, "4096,none": -1, "8192,none": 0.5}) == {
        "acc": 1.0,
        "em,strict": -1.0,
        "8192": 0.5,
    }


def test_the_suite_is_what_the_folder_holds(tmp_path, data):
    assert wanted_tasks([], data) == list(QUESTION)
    assert wanted_tasks(["toefl", "tpo", "gsm"], None) == ["tpo", "gsm100"]
    (tmp_path / "tpo.jsonl").touch()
    assert wanted_tasks([], tmp_path) == ["tpo"]
    (tmp_path / "tpo.jsonl").unlink()
    with pytest.raises(ValueError, match=r"must be a folder with coursera\.jsonl"):
        wanted_tasks([], tmp_path)
    with pytest.raises(ValueError, match="options to choose from are coursera, quality, tpo, got codeU"):
        wanted_tasks(["tpo", "codeU"], None, loglikelihood=True)
