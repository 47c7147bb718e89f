"""lm-evaluation-harness on a model that rotates with one method after another."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resrope.longtext.candidates import OWN, Candidate, placed, tables_at
from resrope.longtext.extras import extra
from resrope.longtext.harness_model import HarnessModel
from resrope.longtext.leval import TASK_FOLDER
from resrope.longtext.leval.data import files_of
from resrope.longtext.store import Records, key_of
from resrope.longtext.subject import Subject
from resrope.models.extension import Extension
from resrope.provenance import provenance

_WHAT = "an evaluation"
_HARNESS = extra("lm_eval", _WHAT, among="eval")
_TaskManager: Any = extra("lm_eval.tasks", _WHAT, among="eval").TaskManager

_NO_FILTER = "none"
# What RULER, whose metrics are called by their lengths, reports for a length that was not asked for.
_NOT_MEASURED = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the harness found for one method.

    method: its label. scores: metrics by task, and by group where there is one. samples: by task, what the
    harness keeps of every question (doc, arguments, resps, the metrics). seconds: of the whole evaluation.
    """

    method: str
    scores: dict[str, dict[str, float]]
    samples: dict[str, list[dict[str, Any]]]
    seconds: float


def evaluate(
    subject: Subject,
    methods: Sequence[Candidate],
    tasks: Sequence[str],
    *,
    length: int,
    max_length: int | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    apply_chat_template: bool = False,
    include_path: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    records: Records | None = None,
) -> Iterator[Evaluation]:
    """Any tasks of the harness, those of L-Eval among them, for one method after the other.

    length: tokens that the methods serve; the base of dynamic NTK and the table of LongRoPE are those of
    this length, but the model as it is has for every prompt those of its length, answer included (of a batch
    the longest). max_length: tokens of prompt and answer (default: ``length``). limit: questions per task
    (default: all). include_path: a folder with more tasks. metadata: what tasks may ask for; ``tokenizer``
    and ``max_length`` are filled in. records: where finished methods are kept, and found again under the hash
    of all of this, of L-Eval's files and of the chat template; a data set on the hub counts by its name.

    Raises ValueError on unknown tasks, on a prompt that does not fit (the harness would drop its beginning),
    on a chat template that is wanted and cannot be used, for what a task cannot load and what ``placed``
    refuses.
    """
    if apply_chat_template and not subject.tokenizer.chat_template:
        raise ValueError(f"{subject.name}: its tokenizer has no chat template to apply")
    if subject.tokenizer.eos_token_id is None:
        raise ValueError(
            f"{subject.name}: its tokenizer names no eos_token, which the harness cannot do without"
        )
    window = length if max_length is None else max_length
    shared = {
        "harness": version("lm_eval"),
        "tasks": sorted(tasks),
        "max_length": window,
        "limit": limit,
        "chat_template": subject.tokenizer.chat_template if apply_chat_template else None,
        "metadata": dict(metadata or {}),
        "include_path": "" if include_path is None else _digest(_below(Path(include_path))),
        "leval": _leval(tasks, include_path, metadata or {}),
    }
    planned = [(method.label, placed(method, subject.rope, length)) for method in methods]
    with TemporaryDirectory() as folder, _quiet():
        model = HarnessModel(
            pretrained=subject.model, tokenizer=subject.tokenizer, max_length=window, batch_size=batch_size
        )
        # Tasks that count tokens want the tokenizer by a name, which one from a GGUF file has not.
        subject.tokenizer.save_pretrained(folder)
        manager = _manager(
            tasks, include_path, {"tokenizer": folder, "max_length": window, **(metadata or {})}
        )
        for label, done in planned:
            tables, follows = tables_at(done, length), _follows(done, window)
            # With a table for each batch, the longest prompt in it decides.
            settings = json.dumps(
                {**shared, "table_of_batches_of": batch_size if follows else None}, sort_keys=True
            )
            key = key_of(subject.identity, tables, [], settings)
            kept = None if records is None else records.get(key, "scores", "seconds")
            if kept is not None:
                yield Evaluation(method=label, scores=kept["scores"], samples={}, seconds=kept["seconds"])
                continue
            started = time.perf_counter()
            model.rotated = partial(_rotated, subject, done) if follows else nullcontext
            with subject.rotating(done, tables):
                found = _HARNESS.simple_evaluate(
                    model=model,
                    tasks=list(tasks),
                    task_manager=manager,
                    limit=limit,
                    bootstrap_iters=0,
                    apply_chat_template=apply_chat_template,
                )
            made = Evaluation(
                method=label,
                scores={task: _metrics(row) for task, row in found["results"].items()},
                samples=found["samples"],
                seconds=time.perf_counter() - started,
            )
            if records is not None:
                record = {"method": label, "scores": made.scores, "seconds": made.seconds}
                records.put(key, {**record, "settings": settings, **provenance()})
            yield made


def _follows(done: Extension, window: int) -> bool:
    """Whether it is the model as it is, and that has one table for a short prompt and another for a long."""
    return done.method == OWN and tables_at(done, 1) != tables_at(done, window)


def _rotated(subject: Subject, done: Extension, reached: int) -> AbstractContextManager[Any]:
    return subject.rotating(done, tables_at(done, reached))


def _leval(tasks: Sequence[str], include_path: str | Path | None, metadata: Mapping[str, Any]) -> str:
    """What changes when L-Eval's tasks or their files do, where they may be asked: groups may hold them."""
    if include_path is None and not any(task.startswith("leval") for task in tasks):
        return ""
    return _digest([*_below(TASK_FOLDER.parent), *files_of(metadata)])


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")


def _digest(files: Iterable[Path]) -> str:
    """What changes when one of the files does."""
    made = hashlib.sha256()
    for file in files:
        made.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return made.hexdigest()


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """``{"acc,none": 0.5, "acc_stderr,none": "N/A", …}`` without all that is no measurement."""
    named = {key.removesuffix(f",{_NO_FILTER}"): value for key, value in row.items() if "," in key}
    return {
        key: float(value)
        for key, value in named.items()
        if "_stderr" not in key
        and isinstance(value, int | float)
        and not (key.isdigit() and value == _NOT_MEASURED)
    }


def _manager(tasks: Sequence[str], include_path: str | Path | None, metadata: dict[str, Any]) -> Any:
    """The harness's list of tasks; its own 14,000 files are read only where they are needed."""
    folders = [str(TASK_FOLDER), *([] if include_path is None else [str(include_path)])]
    manager = _TaskManager(include_path=folders, include_defaults=False, metadata=metadata)
    if not set(tasks) <= set(manager.all_tasks):
        manager = _TaskManager(include_path=folders, metadata=metadata)
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks)
            meant = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(f"the harness has no task {task!r}{meant}")
    manager.load = _one_line(manager.load)
    return manager


def _one_line(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``load`` whose failures, most of them of a download, are ones that a user reads in one line."""

    def loaded(tasks: Any) -> Any:
        try:
            return load(tasks)
        except (ValueError, OSError, ImportError, MemoryError):
            raise
        except Exception as error:
            first = " ".join(str(error).split())
            raise ValueError(
                f"the harness cannot load {', '.join(tasks)}: {type(error).__name__}: {first:.300}"
            ) from error

    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's remarks on its arguments and transformers' on long texts; their bars stay."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
