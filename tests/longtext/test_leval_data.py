import json

import pytest

from resrope.longtext.leval.data import Document, questions, read_documents, read_predictions
from resrope.longtext.leval.prompts import closed_book_prompt, prompt, shortened, system_prompt


def words(text):
    return len(text.split())


def numbered(count):
    return " ".join(map(str, range(count)))


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_question_about_a_document():
    assert prompt("tpo", "Once {upon} a time.", "Who?\nA. He\nB. She") == (
        "Document is as follows. Once {upon} a time. \nQuestion: Who?\nA. He\nB. She. Please directly give "
        "the answer without any additional output or explanation \nAnswer:"
    )


@pytest.mark.parametrize("task", ["gsm100", "codeU"])
def test_worked_answers_only_follow_the_document(task):
    assert prompt(task, "examples", "1 + 1?") == "examples\n\n1 + 1?"


def test_the_system_prompt_tells_the_form_of_an_answer():
    assert "The answer is" in system_prompt("gsm100")
    assert "like A or AB" in system_prompt("coursera")
    assert system_prompt("quality") == system_prompt("tpo")


def test_the_world_is_asked_without_the_document():
    asked = closed_book_prompt("1. True or False? Answer this based on the world described in the document.")
    assert "real world" in asked
    assert "document" not in asked


@pytest.mark.parametrize(("task", "kept"), [("tpo", range(350)), ("codeU", range(1650, 2000))])
def test_a_long_document_keeps_its_start_and_code_its_end(task, kept):
    # Two tokens a word: of 1100, 850, 600 and 350 words only the last are at most 1100 tokens.
    assert shortened(task, numbered(2000), 1100, lambda t: 2 * words(t)) == " ".join(map(str, kept))


def test_a_document_that_fits_stays_as_it_is():
    assert shortened("tpo", "two  spaces\nand a line", 5, words) == "two  spaces\nand a line"


def test_words_go_250_at_a_time():
    lengths = []

    def count(text):
        lengths.append(words(text))
        return 3 * words(text)

    assert words(shortened("tpo", numbered(5000), 1000, count)) == 250
    assert lengths == [5000, 1000, 750, 500, 250]


def test_a_document_without_spaces_cannot_be_cut():
    with pytest.raises(ValueError, match="a document of tpo cannot be cut at its spaces to 100 tokens"):
        shortened("tpo", "x" * 1000, 100, len)


def test_one_row_per_question():
    document = Document(text=numbered(2000), instructions=("Who?", "Why?"), outputs=("A", "B"))
    first, second = questions("tpo", [document], 812, words)
    assert first["prompt"] == prompt("tpo", numbered(300), "Who?")
    assert second["output"] == "B"
    assert {row["system"] for row in (first, second)} == {system_prompt("tpo")}


def test_sci_fi_asks_twice():
    document = Document(
        text="story", instructions=("Is it? True or False?",), outputs=("True [fact: False]",)
    )
    by_story, by_world = questions("sci_fi", [document], 1024, words)
    assert (by_story["output"], by_story["half"]) == ("true", 0)
    assert (by_world["output"], by_world["half"]) == ("false", 1)
    assert "story" in by_story["prompt"]
    assert "story" not in by_world["prompt"] + by_world["system"]


def test_a_length_must_leave_room_for_the_answer():
    with pytest.raises(ValueError, match="must be above 512, the answer's, got 512"):
        questions("tpo", [], 512, words)


def test_a_question_must_fit_beside_the_document():
    document = Document(text="", instructions=(numbered(1100),), outputs=("A",))
    with pytest.raises(ValueError, match=r"a question of tpo has 11\d\d tokens, 1024 are kept for it"):
        questions("tpo", [document], 8192, words)


def test_documents_are_read_from_a_folder(tmp_path):
    row = {
        "input": "é",
        "instructions": ["a?", "b?"],
        "outputs": ["A", "B"],
        "source": "s",
        "evaluation": "exam",
    }
    write(tmp_path / "tpo.jsonl", row, row)
    expected = Document(text="é", instructions=("a?", "b?"), outputs=("A", "B"))
    assert read_documents("tpo", tmp_path) == [expected, expected]


def test_without_a_folder_they_come_from_the_hub(tmp_path, monkeypatch):
    file = write(tmp_path / "x.jsonl", {"input": "x", "instructions": ["a?"], "outputs": ["A"]})

    def download(repository, name, **options):
        assert (repository, name, options) == (
            "L4NLP/LEval",
            "LEval/Exam/codeU.jsonl",
            {"repo_type": "dataset"},
        )
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert [d.text for d in read_documents("codeU", None)] == ["x"]


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    def download(*arguments, **options):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(OSError, match=r"tpo of L4NLP/LEval cannot be had .*: RuntimeError: no route$"):
        read_documents("tpo", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "line 1: input must be a text"),
        ({"outputs": "['A']"}, "line 1: input must be a text, instructions and outputs lists of texts"),
        ({"outputs": ["A", "B"]}, "line 1: 1 instructions, but 2 outputs"),
        ({"outputs": [" "]}, "line 1: an output is empty"),
    ],
)
def test_what_is_no_document_is_named(tmp_path, change, message):
    write(tmp_path / "tpo.jsonl", {"input": "x", "instructions": ["a?"], "outputs": ["A"], **change})
    with pytest.raises(ValueError, match=message):
        read_documents("tpo", tmp_path)


def test_predictions_have_our_keys_or_theirs(tmp_path):
    file = write(
        tmp_path / "p.jsonl",
        {"prediction": "A", "output": "B"},
        {"query": "?", "gt": "C", "model-16k_pred": "D", "evaluation": "exam"},
    )
    assert read_predictions(file) == (["A", "D"], ["B", "C"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"prediction": "A", "output": "A"}\nA B\n', "line 2 is not JSON"),
        ("[1]\n", "line 1 must be a JSON object"),
        ('\n{"output": "A"}\n', "line 2: texts under prediction and output .* got the keys output"),
        ('{"prediction": "A", "output": 1}\n', "line 1: texts under prediction and output"),
    ],
)
def test_what_is_no_prediction_is_named(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "p.jsonl")
