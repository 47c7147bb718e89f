import json

import pytest

from resrope.cli import main
from resrope.longtext.leval import TASK_FOLDER
from resrope.longtext.leval.data import QUESTION_TOKENS
from resrope.longtext.leval.prompts import ANSWER_TOKENS


@pytest.fixture
def leval(capsys):
    """leval(arguments) -> exit code, standard output, standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return stopped.value.code, out, err

    return run


@pytest.fixture
def harness(monkeypatch):
    """Stands for model and harness: what they were asked for. Every score is 50, every accuracy 0.5."""
    from resrope.longtext.candidates import placed
    from resrope.longtext.harness import Evaluation
    from resrope.models.config import rope_from_config

    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    asked = {}

    class Subject:
        rope = rope_from_config(config)

    def open_subject(path, **options):
        asked.update(options, path=path)
        return Subject()

    def evaluate(subject, methods, tasks, **options):
        asked.update(options, methods=[m.label for m in methods], tasks=list(tasks))
        for method in methods:
            placed(method, subject.rope, options["length"])
            scores = {t: {"acc" if t.endswith("likelihood") else "leval_score": 0.5} for t in tasks}
            yield Evaluation(method=method.label, scores=scores, samples={}, seconds=1.0)

    monkeypatch.setattr("resrope.longtext.subject.open_subject", open_subject)
    monkeypatch.setattr("resrope.longtext.harness.evaluate", evaluate)
    monkeypatch.setattr("resrope.longtext.leval.suite.evaluate", evaluate)
    return asked


@pytest.fixture
def data(tmp_path):
    for task in ("tpo", "coursera"):
        (tmp_path / f"{task}.jsonl").touch()
    return tmp_path


@pytest.fixture
def predictions(tmp_path):
    file = tmp_path / "predictions.jsonl"
    rows = [
        {"prediction": "B", "output": "B"},
        {"prediction": "C", "output": "A"},
        {"prediction": "B", "output": "A"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_score_prints_every_digit_as_json(leval, predictions):
    code, out, _ = leval("leval", "score", "--task", "toefl", predictions, "--json")
    assert code == 0
    assert json.loads(out) == {"task": "tpo", "questions": 3, "score": 100 / 3, "reported": 33.3333}


def test_score_prints_a_line(leval, predictions):
    assert leval("leval", "score", predictions, "--task", "tpo") == (0, "tpo: 33.3333 over 3 questions\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "--task", "race", "{file}"], "error: task must be among coursera, gsm100,"),
        (["score", "--task", "sci_fi", "{file}"], "error: question 1: sci_fi takes two answers"),
        (["score", "--task", "tpo", "nowhere.jsonl"], "error: No such file or directory: nowhere.jsonl"),
        (["score", "--task", "tpo", "{folder}"], "error: Is a directory"),
        (["score", "--task", "tpo", "{broken}"], "broken.jsonl: line 2 is not JSON"),
        (["score", "--task", "tpo", "{empty}"], "empty.jsonl is empty"),
        (["score", "{file}"], "error: Missing option '--task'"),
        (["tiny", "--data", "nowhere"], "nowhere must be a folder with coursera.jsonl, "),
        (["tiny", "--data", "{folder}"], "must be a folder with coursera.jsonl"),
        (["tiny", "--task", "race"], "error: task must be among"),
        (["tiny", "--task", "codeU", "--loglikelihood"], "options to choose from are coursera, quality, tpo"),
        (["tiny", "--method", "magic"], "error: method must be among own,"),
        (["tiny", "--method", "yarn", "--factor", "2", "--set", "factor=4"], "error: factor is given twice"),
        (["tiny", "--length", "512"], "513"),
        (["tiny", "--limit", "0"], "--limit"),
    ],
)
@pytest.mark.usefixtures("harness")
def test_mistakes_are_one_line(leval, predictions, tmp_path, arguments, message):
    (tmp_path / "broken.jsonl").write_text(predictions.read_text().splitlines()[0] + "\nA B\n")
    (tmp_path / "empty.jsonl").touch()
    places = {name: tmp_path / f"{name}.jsonl" for name in ("broken", "empty")}
    places |= {"file": predictions, "folder": tmp_path}
    code, out, err = leval("leval", *(a.format(**places) for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_path_is_the_folder_of_the_tasks(leval):
    code, out, _ = leval("leval", "path")
    assert (code, out) == (0, f"{TASK_FOLDER}\n")
    assert (TASK_FOLDER / "leval.yaml").exists()


def test_path_tells_how_much_of_a_document_is_asked_about(leval):
    code, out, _ = leval("leval", "path", "--help")
    assert code == 0
    assert f"less {ANSWER_TOKENS + QUESTION_TOKENS} tokens" in " ".join(out.split())


def test_a_model_needs_no_word_before_it(leval, harness, data):
    code, out, _ = leval(
        *["leval", "tiny", "--data", data, "--method", "own", "--method", "yarn", "--factor", 2, "--json"],
        *["--limit", 3, "--batch-size", 2, "--apply-chat-template", "--device", "cpu", "--length", 1000],
    )
    assert code == 0
    found = json.loads(out)
    row = {"scores": {"coursera": 0.5, "tpo": 0.5}, "mean": None, "seconds": 1.0}
    assert found == {"model": "tiny", "length": 1000, "limit": 3, "methods": {"own": row, "yarn": row}}
    assert harness["tasks"] == ["leval_coursera", "leval_tpo"]
    assert (harness["path"], harness["device"], harness["dtype"]) == ("tiny", "cpu", None)
    assert harness["metadata"] == {"leval_data": str(data)}
    assert (harness["limit"], harness["batch_size"], harness["apply_chat_template"]) == (3, 2, True)


def test_run_prints_a_table(leval, harness, monkeypatch, data):
    monkeypatch.setenv("LEVAL_DATA", str(data))
    (data / "quality.jsonl").touch()
    code, out, _ = leval("leval", "run", "tiny", "--loglikelihood", "--task", "tpo,quality,coursera")
    assert code == 0
    assert out.startswith("tiny, 16384 tokens, percent\n")
    header, row = (line.split() for line in out.splitlines() if line.strip()[:3] in ("met", "own"))
    assert header == ["method", "tpo", "quality", "coursera", "mean"]
    assert row == ["own", "50", "50", "50", "50"]
    assert harness["metadata"] == {"leval_data": str(data)}


def test_evaluate_takes_any_task(leval, harness, tmp_path):
    code, out, _ = leval(
        *[
            "evaluate",
            "tiny",
            "--tasks",
            "one,two",
            "--tasks",
            "three",
            "--method",
            "yarn",
            "--factor",
            4,
            "--json",
        ],
        *["--include-path", tmp_path, "--metadata", '{"max_seq_lengths": [2048]}'],
    )
    assert code == 0
    assert json.loads(out)["methods"]["yarn"]["scores"]["three"] == {"leval_score": 0.5}
    assert harness["tasks"] == ["one", "two", "three"]
    assert harness["length"] == 2048  # what YaRN serves: 4 · 512
    assert (harness["include_path"], harness["metadata"]) == (tmp_path, {"max_seq_lengths": [2048]})


@pytest.mark.usefixtures("harness")
def test_evaluate_prints_a_table(leval):
    code, out, _ = leval("evaluate", "tiny", "--tasks", "one", "--method", "rope", "--method", "own")
    assert code == 0
    assert out.splitlines()[0] == "tiny, 512 tokens"
    assert [line.split() for line in out.splitlines() if line.strip()[:4] in ("rope", "own ")] == [
        ["rope", "0.5"],
        ["own", "0.5"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", ","], "--tasks takes names"),
        (["--tasks", "one", "--metadata", "{"], "--metadata takes JSON, got '{'"),
        (["--tasks", "one", "--metadata", "[1]"], "--metadata takes a JSON object, got '[1]'"),
        (["--tasks", "one", "--include-path", "nowhere"], "'nowhere' does not exist"),
        (["--tasks", "one", "--method", "own", "--method", "own"], "method own is given twice"),
    ],
)
@pytest.mark.usefixtures("harness")
def test_mistakes_of_evaluate_are_one_line(leval, arguments, message):
    code, out, err = leval("evaluate", "tiny", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
