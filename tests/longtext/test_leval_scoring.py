import pytest

from resrope.longtext.leval.scoring import TASKS, grade, grades, percentages, reported, score, task_name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("tpo", "tpo"),
        ("TOEFL", "tpo"),
        ("gsm", "gsm100"),
        ("codeu", "codeU"),
        ("CODEU", "codeU"),
        ("scifi", "sci_fi"),
    ],
)
def test_a_task_has_several_names(given, meant):
    assert task_name(given) == meant


def test_every_task_is_known_by_its_file():
    assert [task_name(task) for task in TASKS] == list(TASKS)


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"task must be among coursera, gsm100, .*, got 'race'"):
        score("race", ["A"], ["A"])


@pytest.mark.parametrize(
    ("prediction", "output", "expected"),
    [
        ("B", "B", 1.0),
        ("B", "(B) It was a dream.", 1.0),
        ("The answer is (C).", "C", 1.0),
        ("it is D. A is wrong", "D", 1.0),
        ("Answer: B", "A", 1.0),  # the A of "Answer" comes first
        ("Because of B", "B", 1.0),
        ("Cannot say", "C", 1.0),  # so does the C of "Cannot"
        ("AB", "A", 0.0),  # neighbouring letters alone stand as they are
        ("AB", "AB", 1.0),
        ("A", "AB", 0.25),
        ("AC", "A", 1.0),  # no neighbours: the first counts
        ("", "A", 0.0),
        (" \n", "A", 0.0),
        ("no letter here", "A", 1.0),  # A is what nothing means
        ("no letter here", "B", 0.0),
        ("A", "none of these", 1.0),  # also for the right answer
        ("b", "B", 0.0),
    ],
)
@pytest.mark.parametrize("task", ["quality", "tpo"])
def test_one_option(task, prediction, output, expected):
    assert grade(task, prediction, output) == expected


@pytest.mark.parametrize(
    ("prediction", "output", "expected"),
    [
        ("BD", "BD", 1.0),
        ("DB", "BD", 1.0),  # sorted
        ("DBB because", "BD", 1.0),
        ("DB", "DB", 0.25),  # the right answer is not: only its letters agree
        ("B", "BD", 0.25),
        ("ABD", "BD", 0.0),
        ("A. one\nC. three", "AC", 1.0),
        ("A) one, C) three", "AC", 1.0),
        ("(A) and (C)", "AC", 1.0),
        ("A, C", "A", 1.0),  # A at the start; C stands at the end, before nothing
        ("A, C\n", "AC", 1.0),
        ("A, C, D.", "AD", 1.0),  # a comma is no end
        ("The options are B and D.", "BD", 1.0),
        ("I choose E. and F.", "A", 1.0),
        ("xB.", "B", 1.0),  # no white space is needed before it
        ("B. Question 2. C. ", "B", 1.0),  # what the model asks itself does not count
        ("Question 1. B. ", "A", 1.0),
        ("choose:BA", "AB", 0.25),  # a run inside stays as it is
        ("choose:AB", "AB", 1.0),
        ("CAB driver. D. ", "ABC", 1.0),  # a run at the start is all of it
        ("", "A", 0.0),
        ("nothing", "A", 1.0),
    ],
)
def test_several_options(prediction, output, expected):
    assert grade("coursera", prediction, output) == expected


@pytest.mark.parametrize(
    ("prediction", "output", "expected"),
    [
        ("Then 3 + 4 = 7.\nThe answer is 7", "7", 1.0),
        ("The answer is 7.\n\nQuestion: 1 + 1?\nThe answer is 2", "7", 1.0),
        ("The answer is $1,430.50 in all", "1430", 1.0),
        ("The answer is -7", "7", 1.0),
        ("The answer is unknown, 7", "7", 0.0),
        ("the answer is 7 or 8", "8", 1.0),  # only the capital one announces
        ("so 7 apples", "7", 1.0),
        ("so 7 apples\n\n9 pears", "7", 1.0),  # the first paragraph
        ("seven", "7", 0.0),
        ("", "7", 0.0),
        ("The answer is 007", "7", 1.0),  # as numbers
        ("The answer is 70", "7", 0.0),
        ("3\n5 apples", "35", 1.0),  # only spaces part words
    ],
)
def test_numbers(prediction, output, expected):
    assert grade("gsm100", prediction, output) == expected


@pytest.mark.parametrize(
    ("prediction", "output", "expected"),
    [
        ("The final output is: [6, 15]", "[6 15]", 1.0),
        ("the final output of the code will be [6.0, 15.0]", "[6 15]", 1.0),
        ("the final output is one two three four five 9", "9", 0.0),  # only 1 + 3 words count
        ("the final output is one two 9 four", "9", 1.0),
        ("the final output is 9, no, the final output is 8", "9", 0.0),  # the last one
        ("9 is what it prints, I think, in the end", "9", 0.0),  # else the last 1 + 3 words
        ("after all of that: 9", "9", 1.0),
        ("'abc'", "abc", 1.0),
        ("ABC", "abc", 1.0),
        ("[[1 2]\n [3 4]]", "[[1, 2], [3, 4]]", 1.0),
        ("19", "9", 0.0),  # as numbers
        ("it prints 19", "9", 1.0),  # as text, where a part is enough
        ("5", "5.0", 1.0),
        ("1e1", "10", 1.0),
        ("A", "AB", 0.25),  # letters A to D are options even here
    ],
)
def test_printed_values(prediction, output, expected):
    assert grade("codeU", prediction, output) == expected


@pytest.mark.parametrize(
    ("prediction", "output", "expected"),
    [
        ("True [fact: False]", "True [fact: False]", (1.0, 1.0)),
        ("TRUE, it is. [fact: I say True.]", "True [fact: False]", (1.0, 0.0)),
        ("This is untrue, so False [fact: False]", "False [fact: False]", (0.0, 1.0)),
        ("yes [fact: no]", "True [fact: False]", (0.0, 0.0)),
        ("False. True. [fact: ]", "False [fact: True]", (1.0, 0.0)),
        ("True [fact: False", "True [fact: False]", (1.0, 0.0)),  # the last character is never read
    ],
)
def test_two_verdicts(prediction, output, expected):
    assert grades("sci_fi", prediction, output) == expected
    assert grade("sci_fi", prediction, output) == sum(expected) / 2


def test_a_verdict_without_its_fact_is_an_error():
    with pytest.raises(
        ValueError, match=r"question 2: sci_fi takes two answers as in 'True \[fact: False\]'"
    ):
        score("sci_fi", ["True [fact: True]", "True"], ["True [fact: True]"] * 2)


def test_the_score_is_the_mean_in_percent():
    assert score("tpo", ["A", "B", "C"], ["A", "A", "A"]) == 100.0 / 3
    assert reported("tpo", ["A", "B", "C"], ["A", "A", "A"]) == 33.3333
    assert score("coursera", ["AB", "A", "D"], ["AB", "AB", "A"]) == 100.0 * 1.25 / 3


def test_sci_fi_is_the_mean_of_its_halves():
    predictions = ["True [fact: True]", "True [fact: False]", "False [fact: False]"]
    outputs = ["True [fact: True]"] * 3
    assert percentages("sci_fi", predictions, outputs) == (100.0 * 2 / 3, 100.0 / 3)
    assert score("sci_fi", predictions, outputs) == (100.0 * 2 / 3 + 100.0 / 3) / 2
    assert reported("sci_fi", predictions, outputs) == (66.6667 + 33.3333) / 2


@pytest.mark.parametrize(("predictions", "outputs"), [([], []), (["A"], []), (["A"], ["A", "B"])])
def test_predictions_and_outputs_come_in_pairs(predictions, outputs):
    with pytest.raises(ValueError, match="as many, at least one"):
        score("tpo", predictions, outputs)


def test_a_question_needs_a_right_answer():
    with pytest.raises(ValueError, match="question 1: output must hold the right answer"):
        score("tpo", ["A"], [" "])
