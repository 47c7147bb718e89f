"""The suite on a model, method after method: one score per task, and their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resrope.longtext.candidates import Candidate
from resrope.longtext.harness import evaluate
from resrope.longtext.leval.data import QUESTION_TOKENS
from resrope.longtext.leval.scoring import CHOICE_TASKS, TASKS, balanced, task_name
from resrope.longtext.subject import Subject


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteScores:
    """One method's scores by task, in percent. mean: of the whole suite, None where a task was left out."""

    method: str
    scores: dict[str, float]
    mean: float | None
    seconds: float


def wanted_tasks(names: Sequence[str], folder: Path | None, *, loglikelihood: bool = False) -> list[str]:
    """The tasks that ``names`` mean; without names, all whose files are in ``folder`` (on the hub: all).

    Raises ValueError on a name that is none, on a file that is not there, and when nothing is left.
    """
    suite = _suite(loglikelihood)
    chosen = list(dict.fromkeys(map(task_name, names)))
    other = [task for task in chosen if task not in suite]
    if other:
        raise ValueError(f"tasks with options to choose from are {', '.join(suite)}, got {', '.join(other)}")
    there = [task for task in suite if folder is None or (folder / f"{task}.jsonl").exists()]
    missing = [task for task in chosen or suite if task not in there]
    if missing and (chosen or not there):
        raise ValueError(f"{folder} must be a folder with {', '.join(f'{task}.jsonl' for task in missing)}")
    return chosen or there


def run_suite(
    subject: Subject,
    methods: Sequence[Candidate],
    tasks: Sequence[str],
    *,
    folder: Path | None,
    length: int,
    loglikelihood: bool = False,
    **options: Any,
) -> Iterator[SuiteScores]:
    """L-Eval's tasks for one method after the other.

    length: tokens of document and answer, which the methods serve; the question comes on top.
    loglikelihood: choose the likeliest letter instead of writing an answer. options: limit, batch_size,
    apply_chat_template and records of ``evaluate``, which also says what is raised.
    """
    names = {task: f"leval_{task}_loglikelihood" if loglikelihood else f"leval_{task}" for task in tasks}
    found = evaluate(
        subject,
        methods,
        list(names.values()),
        length=length,
        max_length=length + QUESTION_TOKENS,
        metadata={"leval_data": None if folder is None else str(folder)},
        **options,
    )
    for one in found:
        rows = {task: one.scores[name] for task, name in names.items()}
        scores = {
            task: 100 * row["acc"] if loglikelihood else row["leval_score"] for task, row in rows.items()
        }
        whole = set(tasks) == set(_suite(loglikelihood))
        mean = balanced(list(scores.values())) if whole else None
        yield SuiteScores(method=one.method, scores=scores, mean=mean, seconds=one.seconds)


def _suite(loglikelihood: bool) -> tuple[str, ...]:
    return CHOICE_TASKS if loglikelihood else TASKS
