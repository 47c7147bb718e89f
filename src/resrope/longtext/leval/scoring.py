"""Scores of L-Eval's closed-ended tasks (arXiv 2307.11088), equal to those of its own evaluation.

Answers are compared as that evaluation compares them, its oddities included: whoever reports an L-Eval
number means these rules. Standard library only.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

# The six of Table 2 of the paper, by the names of their files.
TASKS = ("coursera", "gsm100", "quality", "tpo", "codeU", "sci_fi")
CHOICE_TASKS = ("coursera", "quality", "tpo")
# Where the output of sci_fi tells the second of its two answers: `True [fact: False]`.
_FACT = "[fact:"
_LETTERS = "ABCD"
_OTHER_NAMES = {"gsm": "gsm100", "toefl": "tpo", "codeu": "codeU", "scifi": "sci_fi", "sfiction": "sci_fi"}
_NO_VERDICT = "<error>"
# What codeU's answers say around the value, in the order in which it is dropped.
_AROUND_VALUES = (
    "will be",
    "of the code",
    "is",
    "would be",
    "the value of",
    "the result of",
    "printed",
)
_FINAL = "the final output"


def task_name(name: str) -> str:
    """The task that ``name`` means: its own name, or toefl, gsm, codeu, scifi, sfiction, in any case.

    Raises ValueError on anything else.
    """
    known = {**{task.lower(): task for task in TASKS}, **_OTHER_NAMES}
    if name.lower() not in known:
        raise ValueError(f"task must be among {', '.join(TASKS)}, got {name!r}")
    return known[name.lower()]


def score(task: str, predictions: Sequence[str], outputs: Sequence[str]) -> float:
    """Mean grade × 100 of a model's predictions, each held against the output of its question.

    >>> score("tpo", ["B", "The answer is (C)."], ["B", "D"])
    50.0

    sci_fi: the mean of its two scores. Raises ValueError as ``percentages``.
    """
    return balanced(percentages(task, predictions, outputs))


def reported(task: str, predictions: Sequence[str], outputs: Sequence[str]) -> float:
    """``score`` as L-Eval's evaluation prints it: four decimals, in sci_fi those of each part."""
    return balanced([round(part, 4) for part in percentages(task, predictions, outputs)])


def balanced(percentages: Sequence[float]) -> float:
    """One number for a task: the mean of its parts."""
    return sum(percentages) / len(percentages)


def percentages(task: str, predictions: Sequence[str], outputs: Sequence[str]) -> tuple[float, ...]:
    """Mean grade × 100 of every part of the task: (loyalty, fact) in sci_fi, one number elsewhere.

    Raises ValueError on an unknown task, on no predictions or another number of outputs, and on a
    question that ``grades`` refuses, which it numbers from 1.
    """
    task = task_name(task)
    if not predictions or len(predictions) != len(outputs):
        raise ValueError(
            "predictions and outputs must be as many, at least one, "
            f"got {len(predictions)} and {len(outputs)}"
        )
    rows = []
    for number, (prediction, output) in enumerate(zip(predictions, outputs, strict=True), 1):
        try:
            rows.append(grades(task, prediction, output))
        except ValueError as error:
            raise ValueError(f"question {number}: {error}") from error
    return tuple(percentage(part) for part in zip(*rows, strict=True))


def percentage(part: Sequence[float]) -> float:
    """Mean × 100, in the order of operations that gives L-Eval's last digit."""
    return 100.0 * sum(part) / len(part)


def grade(task: str, prediction: str, output: str) -> float:
    """1.0 for a right answer, 0.25 for some of several right options, else 0.0; in sci_fi the mean of two."""
    return balanced(grades(task, prediction, output))


def grades(task: str, prediction: str, output: str) -> tuple[float, ...]:
    """The grade of every part of one question; raises ValueError where its output or sci_fi's prediction
    lacks a part.
    """
    task = task_name(task)
    if not output.strip():
        raise ValueError("output must hold the right answer, got none")
    if task in CHOICE_TASKS:
        answer = _options(prediction) if task == "coursera" else _option(prediction)
        return (_agreement(answer, gold_letters(output)),)
    if task == "gsm100":
        return (_agreement(_number(prediction), _number(output)),)
    if task == "codeU":
        return (_agreement(_value(prediction, len(output.split())), _code(output)),)
    answers, golds = halves(prediction), halves(output)
    return tuple(verdict_grade(a, g) for a, g in zip(answers, golds, strict=True))


def _agreement(answer: str, gold: str) -> float:
    """How right a cleaned answer is: options by their letters, the rest as numbers or as text."""
    said, wanted = _normalised(answer), _normalised(gold)
    if set(wanted) <= set(_LETTERS):
        return 1.0 if said == wanted else 0.25 if set(said) <= set(wanted) else 0.0
    try:
        return float(float(answer) == float(gold))
    except ValueError:
        return float(_bare(gold) in _bare(answer))


def _normalised(text: str) -> str:
    """Without punctuation, articles and superfluous white space; capitals count."""
    kept = "".join(c for c in text if c not in string.punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", kept).split())


def _bare(text: str) -> str:
    return text.lower().replace(" ", "")


def gold_letters(output: str) -> str:
    """The right options: the letters A to D of the first word; A where it has none."""
    return re.sub(f"[^{_LETTERS}]", "", output.split()[0]) or "A"


def _option(prediction: str) -> str:
    """The one option that an answer names: the first of A to D anywhere; A where there is none."""
    if not prediction.strip():
        return "None"
    if prediction in _LETTERS:  # neighbouring letters stand as they are, AB as well as A
        return prediction
    return next((c for c in prediction if c in _LETTERS), "A")


def _options(prediction: str) -> str:
    """All options that an answer names, sorted.

    ``BD because`` names two at its start. Otherwise they are capitals before white space, ")" or "." that
    come before a next question, and without any of these the first run of A to D, unsorted; then A.
    """
    if not prediction.strip():
        return "None"
    if prediction in _LETTERS:
        return prediction
    start = re.split(f"[^{_LETTERS}]", prediction, maxsplit=1)[0]
    rest = prediction[len(start) :].split("Question")[0]
    named = start if len(start) > 1 else start + "".join(re.findall(rf"[{_LETTERS}](?=[\s.)])", rest))
    if named:
        return "".join(sorted(set(named)))
    run = re.search(f"[{_LETTERS}]+", rest)
    return run[0] if run else "A"


def _number(text: str) -> str:
    """Digits before the point: of the word after "The answer is ", else of the last with a digit in the
    first paragraph.
    """
    stated = re.search(r"The answer is (\S+)", text)
    words = [stated[1]] if stated else text.split("\n\n")[0].split(" ")
    word = next((w for w in reversed(words) if any(map(str.isdigit, w))), "")
    return "".join(filter(str.isdigit, word.split(".")[0]))


def _code(text: str) -> str:
    """A printed value without what its spelling leaves open: ``[1.0, 2]`` and ``[1 2]`` are one."""
    text = re.sub(r"\s+", " ", text)
    for dropped in (",", "'", "\\", ".0"):
        text = text.replace(dropped, "")
    for apart, together in (("] [", "]["), ("[ [", "[["), ("] ]", "]]")):
        text = text.replace(apart, together)
    return text


def _value(prediction: str, gold_words: int) -> str:
    """The words that may hold the value: the first after the last "the final output", else the last ones.

    Three more than the right value has; words are what single spaces separate, so some may be empty.
    """
    text = _code(prediction)
    for phrase in _AROUND_VALUES:
        text = text.replace(phrase, "")
    room = gold_words + 3
    _, announced, after = text.rpartition(_FINAL)
    words = re.split(" +", after)
    return " ".join(words[:room] if announced else words[-room:])


def halves(text: str) -> tuple[str, str]:
    """``True [fact: False]`` as its two answers, ("true", "false"): by the document, and by the world.

    The last character, the closing bracket, is dropped whatever it is. Raises ValueError without ``[fact:``.
    """
    parts = text.lower().split(_FACT)
    if len(parts) < 2:
        raise ValueError(f"sci_fi takes two answers as in 'True [fact: False]', got {text!r}")
    return parts[0].strip(), parts[1][:-1].strip()


def verdict_grade(answer: str, gold: str) -> float:
    """1.0 where the first word of ``answer`` with a true or false in it has that of ``gold``, else 0.0."""
    words = answer.lower().split()
    said = next((v for word in words for v in ("true", "false") if v in word), _NO_VERDICT)
    return _agreement(said, gold)
