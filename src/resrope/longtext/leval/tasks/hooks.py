"""What the YAML files beside it name; the harness loads this file by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resrope.longtext.extras import extra
from resrope.longtext.leval import data, scoring

# Keys of --metadata; the harness adds those of --model_args.
_LENGTH, _WINDOW = "leval_length", "max_length"


def documents(leval_task: str, one_letter: bool = False, **metadata: Any) -> dict[str, Any]:
    """The questions of a task as the harness wants them: a data set under the name of its split.

    one_letter: only questions with one right option, which gets a column ``gold``, 0 for A. metadata: what
    --metadata and --model_args give. Raises ValueError without a length or a tokenizer.
    """
    data_set = extra("datasets", "L-Eval").Dataset
    read = data.read_documents(leval_task, data.folder_of(metadata))
    rows = data.questions(leval_task, read, _length(metadata), _counter(metadata))
    return {"test": data_set.from_list(_with_one_letter(rows) if one_letter else rows)}


def _length(metadata: dict[str, Any]) -> int:
    """Tokens of document and answer; raises ValueError where the model would not see all of a prompt."""
    window = metadata.get(_WINDOW)
    length = metadata.get(_LENGTH, window and window - data.QUESTION_TOKENS)
    if not isinstance(length, int):
        raise ValueError(
            f"--metadata must tell {_LENGTH}, in tokens, or --model_args {_WINDOW}, got {length!r}"
        )
    if window is not None and window < length + data.QUESTION_TOKENS:
        raise ValueError(
            f"{_WINDOW} must be at least {_LENGTH} + {data.QUESTION_TOKENS}, so that no prompt is cut on the "
            f"left, got {window} and {length}"
        )
    return length


def _counter(metadata: dict[str, Any]) -> Any:
    """A function from a text to its number of tokens, special ones included."""
    from resrope.longtext.subject import tokenizer_of

    name = next((metadata[key] for key in ("tokenizer", "pretrained", "model") if metadata.get(key)), None)
    if name is None:
        raise ValueError(
            'documents are cut by tokens: name a tokenizer, as in --metadata \'{"tokenizer": "MODEL"}\''
        )
    tokenizer = tokenizer_of(name)
    return lambda text: len(tokenizer(text, verbose=False).input_ids)


def _with_one_letter(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    letters = [scoring.gold_letters(row["output"]) for row in rows]
    pairs = zip(rows, letters, strict=True)
    return [{**row, "gold": "ABCD".index(one)} for row, one in pairs if len(one) == 1]


def graded(doc: dict[str, Any], results: Sequence[str]) -> dict[str, tuple[int, float]]:
    """The grade of one answer, beside the half of the score that it counts for."""
    (raw,) = results
    answer = raw.strip()  # most tokenizers begin it with the space behind "Answer:"
    if doc["task"] == "sci_fi":
        grade = scoring.verdict_grade(answer, doc["output"])
    else:
        grade = scoring.grade(doc["task"], answer, doc["output"])
    return {"leval_score": (doc["half"], grade)}


def total(graded: Sequence[tuple[int, float]]) -> float:
    """``scoring.score`` of a task, from the grades of its answers."""
    halves = sorted({half for half, _ in graded})
    parts = [[grade for half, grade in graded if half == wanted] for wanted in halves]
    return scoring.balanced([scoring.percentage(part) for part in parts])
