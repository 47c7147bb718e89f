"""lm-evaluation-harness on a model that rotates with one method after another."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jinja2.exceptions import TemplateError

from resrope.longtext.candidates import Candidate, placed, tables_at
from resrope.longtext.leval import TASK_FOLDER
from resrope.longtext.rows import extra
from resrope.longtext.store import Records, key_of
from resrope.longtext.subject import Subject
from resrope.provenance import provenance

_WHAT = "an evaluation"
_HARNESS = extra("lm_eval", _WHAT, among="eval")
_TaskManager: Any = extra("lm_eval.tasks", _WHAT, among="eval").TaskManager
_HFLM: Any = extra("lm_eval.models.huggingface", _WHAT, among="eval").HFLM

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
    decided_by: str = "",
) -> Iterator[Evaluation]:
    """Any tasks of the harness, those of L-Eval among them, for one method after the other.

    length: tokens that the methods serve; the base of dynamic NTK and the table of LongRoPE are those of
    this length. max_length: tokens of prompt and answer (default: ``length``). limit: questions per task
    (default: all). include_path: a folder with more tasks. metadata: what tasks may ask for; ``tokenizer``
    and ``max_length`` are filled in. records: where finished methods are kept, and found again under the hash
    of all of this; decided_by: what else the scores depend on.

    Raises ValueError on unknown tasks, on a prompt that does not fit (the harness would drop its beginning),
    on a chat template that is wanted and not there, for what a task cannot load and what ``placed`` refuses.
    """
    if apply_chat_template and not subject.tokenizer.chat_template:
        raise ValueError(f"{subject.name}: its tokenizer has no chat template to apply")
    window = length if max_length is None else max_length
    settings = json.dumps(
        {
            "harness": version("lm_eval"),
            "tasks": sorted(tasks),
            "max_length": window,
            "limit": limit,
            "apply_chat_template": apply_chat_template,
            "metadata": dict(metadata or {}),
            "include_path": "" if include_path is None else _digest(Path(include_path)),
            "decided_by": decided_by,
        },
        sort_keys=True,
    )
    planned = [(method.label, placed(method, subject.rope, length)) for method in methods]
    with TemporaryDirectory() as folder, _quiet():
        model = _Model(
            pretrained=subject.model, tokenizer=subject.tokenizer, max_length=window, batch_size=batch_size
        )
        # Tasks that count tokens want the tokenizer by a name, which one from a GGUF file has not.
        subject.tokenizer.save_pretrained(folder)
        manager = _manager(
            tasks, include_path, {"tokenizer": folder, "max_length": window, **(metadata or {})}
        )
        for label, done in planned:
            tables = tables_at(done, length)
            key = key_of(subject.identity, tables, [], settings)
            kept = None if records is None else records.get(key, "scores", "seconds")
            if kept is not None:
                yield Evaluation(method=label, scores=kept["scores"], samples={}, seconds=kept["seconds"])
                continue
            started = time.perf_counter()
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


def _digest(folder: Path) -> str:
    """What changes when a file below the folder does."""
    made = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        made.update(str(file.relative_to(folder)).encode() + file.read_bytes())
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


class _Model(_HFLM):  # type: ignore[misc]
    """The harness's transformers back end, without its silent cuts."""

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask [len(strings), longest]; raises ValueError instead of dropping beginnings."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len is not None:
            self._check_fits(ids.shape[1], left_truncate_len)
        return ids, mask

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        for _, context, continuation in requests:
            self._check_fits(len(context) + len(continuation), self.max_length + 1)
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _check_fits(self, tokens: int, room: int) -> None:
        if tokens > room:
            raise ValueError(
                f"a prompt has {tokens} tokens, of a length of {self.max_length} only {room} are left for it"
            )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as one text; a template without system turns gets that text in the user's turn."""
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except TemplateError:
            system, user, *rest = chat_history
            if system["role"] != "system":
                raise
            merged = {**user, "content": system["content"] + user["content"]}
            return self._rendered([merged, *rest], add_generation_prompt)

    def _rendered(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )


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
