"""L-Eval's files: documents with their questions, and stored predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from resrope.longtext.extras import extra
from resrope.longtext.leval import prompts, scoring
from resrope.longtext.rows import json_rows

HUB = "L4NLP/LEval"
# Tokens for what a prompt holds beside the document: system prompt, question, turns of a chat.
QUESTION_TOKENS = 1024
# Where the folder with the files is named: in the harness's metadata, else in the environment.
_FOLDER, _FOLDER_VARIABLE = "leval_data", "LEVAL_DATA"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A long text, questions about it and their right answers."""

    text: str
    instructions: tuple[str, ...]
    outputs: tuple[str, ...]


def folder_of(metadata: Mapping[str, Any]) -> Path | None:
    """The folder with the files, from the harness's metadata, else from LEVAL_DATA; None means the hub."""
    named = metadata.get(_FOLDER) or os.environ.get(_FOLDER_VARIABLE)
    return Path(named) if named else None


def files_of(metadata: Mapping[str, Any]) -> list[Path]:
    """The files in that folder; none where it is the hub."""
    folder = folder_of(metadata)
    files = [] if folder is None else [folder / f"{task}.jsonl" for task in scoring.TASKS]
    return [file for file in files if file.is_file()]


def read_documents(task: str, folder: str | Path | None) -> list[Document]:
    """The documents of ``{folder}/{task}.jsonl``, or of the hub's file where there is no folder.

    Raises OSError where the file cannot be had, ValueError where it is not what L-Eval's files are.
    """
    file = _hub_file(task) if folder is None else Path(folder) / f"{task}.jsonl"
    return [_document(where, row) for where, row in _rows(file)]


def _document(where: str, row: dict[str, Any]) -> Document:
    text, instructions, outputs = row.get("input"), row.get("instructions"), row.get("outputs")
    if not isinstance(text, str) or not _texts(instructions) or not _texts(outputs):
        raise ValueError(f"{where}: input must be a text, instructions and outputs lists of texts")
    if not instructions or len(instructions) != len(outputs):
        raise ValueError(f"{where}: {len(instructions)} instructions, but {len(outputs)} outputs")
    if not all(output.strip() for output in outputs):
        raise ValueError(f"{where}: an output is empty")
    return Document(text=text, instructions=tuple(instructions), outputs=tuple(outputs))


def _texts(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _hub_file(task: str) -> Path:
    hub = extra("huggingface_hub", HUB)
    try:
        return Path(hub.hf_hub_download(HUB, f"LEval/Exam/{task}.jsonl", repo_type="dataset"))
    except Exception as error:  # of the hub, of the network below it, of the disk
        first = str(error).strip().partition("\n")[0]
        raise OSError(
            f"{task} of {HUB} cannot be had from the hub; a folder with L-Eval's files will do as well: "
            f"{type(error).__name__}: {first:.200}"
        ) from error


def read_predictions(file: str | Path) -> tuple[list[str], list[str]]:
    """(predictions, outputs) of a file with one JSON object a line.

    Keys are ``prediction`` and ``output``, or those of L-Eval's own files: the first that has ``_pred`` in
    its name, and ``gt``. sci_fi's two answers are one prediction, ``True [fact: False]``. Raises ValueError
    on a line that is not such an object, and when there is none.
    """
    pairs = [_prediction(where, row) for where, row in _rows(Path(file))]
    return [p for p, _ in pairs], [o for _, o in pairs]


def _prediction(where: str, row: dict[str, Any]) -> tuple[str, str]:
    theirs = next((key for key in row if "_pred" in key), "prediction")
    prediction = row.get("prediction", row.get(theirs))
    output = row.get("output", row.get("gt"))
    if not isinstance(prediction, str) or not isinstance(output, str):
        raise ValueError(
            f"{where}: texts under prediction and output (or *_pred and gt) are needed, "
            f"got the keys {', '.join(row) or 'none'}"
        )
    return prediction, output


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of every line that is not blank; raises ValueError when there is none."""
    row = None
    for number, row in json_rows(file):
        yield f"{file}: line {number}", row
    if row is None:
        raise ValueError(f"{file} is empty: one JSON object a line is needed")


def questions(
    task: str, documents: list[Document], length: int, count: Callable[[str], int]
) -> list[dict[str, Any]]:
    """One row per question, ready to be asked: task, system, prompt, output and half.

    length: L-Eval's max_length; documents are cut to ``length`` − 512 tokens. count: the tokens of a text.
    A question of sci_fi makes two rows, half 0 by the document and half 1 by the world, each with its own
    output. Raises ValueError when a length leaves no room, or a question has more than 1024 tokens.
    """
    limit = length - prompts.ANSWER_TOKENS
    if limit < 1:
        raise ValueError(f"leval_length must be above {prompts.ANSWER_TOKENS}, the answer's, got {length}")
    made = []
    for document in documents:
        text = prompts.shortened(task, document.text, limit, count)
        for instruction, output in zip(document.instructions, document.outputs, strict=True):
            beside = count(prompts.system_prompt(task) + prompts.prompt(task, "", instruction))
            if beside > QUESTION_TOKENS:
                raise ValueError(
                    f"a question of {task} has {beside} tokens, {QUESTION_TOKENS} are kept for it: "
                    f"{instruction[:80]!r}"
                )
            made += _asked(task, text, instruction, output)
    return made


def _asked(task: str, text: str, instruction: str, output: str) -> list[dict[str, Any]]:
    row = {
        "task": task,
        "system": prompts.system_prompt(task),
        "prompt": prompts.prompt(task, text, instruction),
        "output": output,
        "half": 0,
    }
    if task != "sci_fi":
        return [row]
    by_document, by_world = scoring.halves(output)
    closed_book = prompts.closed_book_prompt(instruction)
    return [
        {**row, "output": by_document},
        {**row, "system": "", "prompt": closed_book, "output": by_world, "half": 1},
    ]
