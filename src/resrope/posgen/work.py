"""A cell while it trains: begun, looked at, put on disk and taken up again, finished."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resrope.posgen.embeddings import embedding
from resrope.posgen.embeddings.rotary import Rope
from resrope.posgen.evaluate import At, Evaluation, accuracies, evaluate, run_freely
from resrope.posgen.functions import Tokens
from resrope.posgen.ops import keep_heap
from resrope.posgen.positions import PositionEmbedding, source_of, when_tested
from resrope.posgen.record import (
    SCHEMA,
    Cell,
    cell_folder,
    read_record,
    read_records,
    read_run,
    read_tensors,
    write_record,
    write_tensors,
)
from resrope.posgen.settings import METHODS, Settings
from resrope.posgen.splits import make_splits
from resrope.posgen.tasks import Task
from resrope.posgen.train import Trainer, steps_per_epoch
from resrope.provenance import provenance


@dataclass
class Work:
    """A cell while it trains. made: what its record says of how it was made, beside what all records say;
    commits: of the code that every start of it ran."""

    cell: Cell
    settings: Settings
    task: Task
    trainer: Trainer
    validation: Tensor
    test: Tensor
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    made: dict[str, Any] = field(default_factory=dict)
    commits: list[str | None] = field(default_factory=lambda: [provenance()["commit"]])

    @property
    def where(self) -> At:
        """What a test takes of positions: of every test the same, also where they are drawn."""
        device = self.trainer.model.embedding.device
        tested = when_tested(self.trainer.position, self.cell.seed)
        return lambda length: tested(length).to(device)


def prepared(cell: Cell, settings: Settings) -> Work:
    """The cell before its first step."""
    keep_heap()
    task = settings.task(cell.task)
    splits = make_splits(task, **settings.split_sizes(), seed=cell.seed)
    tokens = {name: _begun(rows, settings) for name, rows in splits.by_name().items()}
    position = embedding(cell.method, settings, cell.seed)
    return Work(
        cell=cell,
        settings=settings,
        task=task,
        trainer=Trainer(settings, cell.seed, tokens["train"], position),
        validation=tokens["validation"],
        test=tokens["test"],
    )


def trained(run: Path, cell: Cell) -> tuple[Work, dict[str, Any]]:
    """A finished cell of a run with its weights after the last step, and its record.

    Raises ValueError where the cell is not finished, or where a user's class has changed since.
    """
    _, settings = read_run(run)
    record = read_record(run, cell)
    if record is None:
        raise ValueError(f"{run} holds no finished cell {cell.name}")
    check_unchanged(run, [cell], settings)
    work = prepared(cell, settings)
    work.trainer.load(read_tensors(cell_folder(run, cell) / "last.safetensors")[0])
    return work, record


def _begun(rows: Tokens, settings: Settings) -> Tensor:
    """What the model reads of the sequences: int64 [rows, before + length]; the token before has no other
    use."""
    before = np.full((len(rows), settings.before), settings.modulus)
    return torch.from_numpy(np.concatenate([before, rows.astype(np.int64)], axis=1))


def not_finite(work: Work, loss: float, step: int, what: str = "loss") -> ValueError:
    """What is wrong with a loss that is no number."""
    return ValueError(
        f"{work.cell.name}: the {what} is {loss} at step {step}; "
        f"lower learning_rate, got {work.settings.learning_rate}"
    )


def look_at(work: Work, losses: Sequence[float]) -> None:
    """Evaluate where it stands, for its history; losses: of the steps since the last look.

    Raises ValueError where its own loss is no number.
    """
    look, rows = work.trainer.step, work.validation[: work.settings.look_rows]
    seen = evaluate(work.trainer.model, work.where, rows, work.task.prefix_length, work.settings.before)
    validation = float(seen.loss[work.task.prefix_length :].mean())
    if not math.isfinite(validation):
        raise not_finite(work, validation, look, "validation loss")
    work.history.append(
        {
            "step": look,
            "epoch": look / steps_per_epoch(work.settings),
            "train_loss": fmean(losses),
            "validation_loss": validation,
            **accuracies(seen, work.task, work.settings.train_length),
        }
    )
    if _best(work) is work.history[-1]:
        work.best = {k: v.detach().clone() for k, v in work.trainer.named_parameters().items()}


def state_of(work: Work) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that the rest of the cell follows from: tensors, and notes as JSON types."""
    tensors = work.trainer.state() | {f"best.{k}": v for k, v in work.best.items()}
    notes = {
        "step": work.trainer.step,
        "history": work.history,
        "seconds": work.seconds,
        "threads": torch.get_num_threads(),
        "source": source_of(type(work.trainer.position)),
        "made": work.made,
        "commits": work.commits,
    }
    return tensors, notes


def restore(work: Work, tensors: dict[str, Tensor], notes: dict[str, Any], file: Path) -> None:
    """Inverse of ``state_of``. Raises ValueError where a user's embedding is not what it was; file: where
    they come from."""
    source = source_of(type(work.trainer.position))
    if notes.get("source", source) != source:
        raise _changed(work.cell.method, file)
    torch.set_num_threads(notes["threads"])
    work.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
    work.history, work.seconds, work.made = notes["history"], notes["seconds"], notes.get("made", {})
    work.commits = list(dict.fromkeys([*notes.get("commits", []), *work.commits]))
    work.trainer.restore(tensors, notes["step"])


def _changed(method: str, made: Path) -> ValueError:
    return ValueError(f"{method}: its file was changed since {made} was made; choose another folder")


def check_unchanged(out: Path, cells: Sequence[Cell], settings: Settings) -> None:
    """Raise ValueError when cells of one method in ``out`` would be of two versions of a user's class."""
    sources = {cell.method: source_of(type(embedding(cell.method, settings, 0))) for cell in cells}
    for record in read_records(out):
        method, source = record["cell"]["method"], record["embedding"].get("source")
        if source is not None and sources.get(method, source) != source:
            raise _changed(method, cell_folder(out, Cell(**record["cell"])))


def finish(out: Path, work: Work) -> dict[str, Any]:
    """Test it after its last step and at its best look; write weights and record, and return the record."""
    started = time.perf_counter()
    folder = cell_folder(out, work.cell)
    last = {k: v.detach() for k, v in work.trainer.named_parameters().items()}
    notes = {"cell": asdict(work.cell), "model": asdict(work.settings.model)}
    for name, weights in (("last", last), ("best", work.best)):
        write_tensors(folder / f"{name}.safetensors", weights, notes)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "cell": asdict(work.cell),
        "settings": work.settings.to_dict(),
        "embedding": described(work.trainer.position, work.cell.method, work.settings),
        "history": work.history,
        "last": _measure(work),
    }
    work.trainer.load(work.best)
    record["best"] = {"step": _best(work)["step"], **_measure(work)}
    seconds = work.seconds + time.perf_counter() - started
    made = {"seconds": round(seconds, 2), "threads": torch.get_num_threads(), **work.made, **provenance()}
    record["made"] = made | ({"commits": work.commits} if len(work.commits) > 1 else {})
    write_record(out, work.cell, record)
    return record


def described(position: PositionEmbedding, method: str, settings: Settings) -> dict[str, Any]:
    """The class, its parameters, and of RoPE the spec and the tables, so that a record explains itself."""
    parameters = sum(p.numel() for p in position.parameters())
    made: dict[str, Any] = {"class": type(position).__qualname__, "parameters": parameters}
    source = source_of(type(position))
    if source is not None:
        made["source"] = source
    if isinstance(position, Rope):
        made |= {"training": position.tables[True].to_dict(), "testing": position.tables[False].to_dict()}
    return made | ({"spec": settings.spec(method).to_dict()} if method in METHODS else {})


def _best(work: Work) -> dict[str, Any]:
    """The first of the best looks."""
    if work.settings.best_by == "loss":
        return min(work.history, key=lambda entry: entry["validation_loss"])
    return max(work.history, key=lambda entry: entry["in_distribution"])


def gave_up(work: Work) -> bool:
    """Whether as many looks as there is patience for have passed since the best one."""
    if work.settings.patience is None or not work.history:
        return False
    return len(work.history) - 1 - work.history.index(_best(work)) >= work.settings.patience


def _measure(work: Work) -> dict[str, Any]:
    model, prefix, before = work.trainer.model, work.task.prefix_length, work.settings.before
    forced = evaluate(model, work.where, work.test, prefix, before)
    measured = {
        "loss": float(forced.loss[prefix:].mean()),
        **accuracies(forced, work.task, work.settings.train_length),
        **_by_position(forced),
    }
    if work.settings.free_running_rows:
        rows = work.test[: work.settings.free_running_rows]
        free = run_freely(model, work.where, rows, prefix, before)
        measured["free_running"] = {
            **accuracies(free, work.task, work.settings.train_length),
            **_by_position(free),
        }
    return measured


def _by_position(evaluation: Evaluation) -> dict[str, Any]:
    return {"rows": evaluation.rows, "correct_by_position": evaluation.correct.tolist()}
