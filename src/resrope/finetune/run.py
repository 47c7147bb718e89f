"""A fine-tuning from its texts to a checkpoint that stock loaders read; killed anywhere, it goes on.

OUT/run.json         what decides the weights: the recipe, hashes of model and chunks, processes
OUT/starts.json      when and with what it was started
OUT/checkpoint-N/    the Trainer's, while it trains
OUT/runs/            TensorBoard's, where asked for
OUT/adapter/         LoRA's own weights, where there are any
OUT/model/           the result
OUT/report.*         losses, held-out perplexity, pictures
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

from resrope.files import atomic_write
from resrope.finetune.chunks import Chunks, Progress, prepare
from resrope.finetune.fits import check_fits, check_main_memory
from resrope.finetune.heap import give_back
from resrope.finetune.opened import open_model
from resrope.finetune.recipe import Recipe
from resrope.finetune.saved import save_result
from resrope.finetune.sharding import check_launch, kind, launched_for
from resrope.finetune.source import identity
from resrope.finetune.trainer import (
    EndEvaluated,
    LongTrainer,
    MarkComplete,
    Rhythm,
    Sequences,
    Tick,
    Ticks,
    arguments,
    collate,
    last_complete,
    remove_checkpoints,
    remove_incomplete,
    sequences,
    spread,
)
from resrope.longtext.products import one_dnn_is_faster
from resrope.longtext.subject import tokenizer_of
from resrope.models.extension import Extension
from resrope.provenance import provenance
from resrope.rundir import begun, only_run, open_run, read_json, read_run

SCHEMA = "resrope-finetune-1"
RECORD, STARTS = "record.json", "starts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is trained on what. texts, held_out: as ``stream_texts`` takes them. repeat: the texts may be read
    more than once. cache: where chunks are kept. cpu: no accelerator even where there is one."""

    model: str
    out: Path
    recipe: Recipe
    texts: Sequence[str]
    held_out: Sequence[str] = ()
    column: str | None = None
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "resrope" / "chunks")
    repeat: bool = False
    rhythm: Rhythm = field(default_factory=Rhythm)
    cpu: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """The texts of a job in chunks."""

    train: Chunks
    held_out: Chunks | None


def cut(job: Job, tokenizer: Any, *, progress: Progress = lambda tokens: None) -> Cut:
    """Texts to chunks. Raises ValueError for a held-out text that is among the training texts."""
    made = partial(
        prepare, tokenizer=tokenizer, length=job.recipe.length, column=job.column, progress=progress
    )
    train = made(job.texts, cache=job.cache)
    held_out = made(job.held_out, cache=job.cache) if job.held_out else None
    known = {d.digest: d.name for d in train.documents}
    twice = next((d for d in held_out.documents if d.digest in known), None) if held_out else None
    if twice is not None:
        raise ValueError(f"{twice.name} is held out, but it is {known[twice.digest]} of the training texts")
    return Cut(train=train, held_out=held_out)


def epochs(job: Job, train: Chunks, processes: int) -> float:
    """How often the run reads its texts. Raises ValueError when that is more than once, unless ``repeat``."""
    needed = job.recipe.steps * job.recipe.sequences(processes)
    if needed > len(train) and not job.repeat:
        raise ValueError(
            f"the texts give {len(train)} chunks, {job.recipe.steps} steps of "
            f"{job.recipe.sequences(processes)} sequences need {needed}: that is "
            f"{needed / len(train):.2f} epochs; more text, fewer --steps, or --repeat to read them again"
        )
    return needed / len(train)


def finetune(
    job: Job,
    *,
    announce: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda tokens: None,
    tell: Callable[[Tick], None] = lambda tick: None,
) -> dict[str, Any]:
    """Fine-tune, or go on where an earlier start of the same job was stopped; returns the record.

    announce: told in words what is about to happen. progress: told of tokens cut into chunks. tell: told of
    every step. Raises ValueError for what cannot work, before anything is trained; NotFiniteError, a
    ValueError, when the loss stops being a number.
    """
    from accelerate import PartialState

    check_launch(job.recipe)
    job = replace(job, cpu=job.cpu or not _accelerated())
    state = PartialState(cpu=job.cpu, timeout=_PATIENCE)
    tokenizer = tokenizer_of(job.model)
    with state.main_process_first():
        texts = cut(job, tokenizer, progress=progress)
    often = epochs(job, texts.train, state.num_processes)
    announce(texts.train.summary())
    settings = _settings(job, texts, state.num_processes)
    if begun(job.out, SCHEMA, settings) and (job.out / RECORD).is_file():
        announce(f"{job.out}: finished already")
        return read_json(job.out / RECORD)
    announce(plan(job.recipe, state.num_processes, often))
    _check_memory(job, state)
    if job.cpu:
        give_back()
    model, done = open_model(job.model, job.recipe, state.device)
    _check_vocabulary(model, texts)
    last = last_complete(job.out)
    args = arguments(
        job.recipe,
        job.out,
        job.rhythm,
        held_out=texts.held_out is not None,
        resumed=last is not None,
        cpu=job.cpu,
    )
    with only_run(job.out) if state.is_main_process else nullcontext():
        if state.is_main_process:
            _start(job, settings)
        state.wait_for_everyone()
        trainer = _trainer(job, texts, model, args, state.num_processes, tell)
        if last is not None:
            announce(f"going on from {last}")
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        return _finished(job, texts, tokenizer, trainer, done, state)


def _check_memory(job: Job, state: Any) -> None:
    """Before anything is loaded by any process. What ZeRO-3 holds where in a step is left to itself."""
    processes = state.num_processes
    sharded = launched_for("FSDP")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if not launched_for("DEEPSPEED"):
        check_fits(job.model, job.recipe, cpu=job.cpu, processes=processes, here=here, sharded=sharded)
    check_main_memory(job.model, job.recipe, here=here)
    state.wait_for_everyone()


# For which processes wait while the main one cuts texts or saves.
_PATIENCE = timedelta(hours=6)


def _accelerated() -> bool:
    """Whether there is anything but the CPU."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def plan(recipe: Recipe, processes: int, often: float) -> str:
    """What will be done, in one line."""
    return (
        f"steps {recipe.steps} × sequences {recipe.sequences(processes)} (processes {processes} × batch "
        f"{recipe.batch} × accumulation {recipe.accumulation}) × tokens {recipe.length}: "
        f"{recipe.tokens(processes):,} tokens, {often:.2f} epochs"
    )


def _settings(job: Job, texts: Cut, processes: int) -> dict[str, Any]:
    """All that decides the weights, as JSON types."""
    made = {
        "model": identity(job.model),
        **job.recipe.to_dict(),
        "chunks": texts.train.key,
        "held_out": None if texts.held_out is None else texts.held_out.key,
        "processes": processes,
    }
    return dict(json.loads(json.dumps(made)))


def _start(job: Job, settings: dict[str, Any]) -> None:
    """The folder, without what a kill left in it, and a line in OUT/starts.json.

    Which library makes the products is settled at the first start: the next clock might choose otherwise, and
    the bits with it.
    """
    open_run(job.out, SCHEMA, settings)
    remove_incomplete(job.out)
    last = last_complete(job.out)
    file = job.out / STARTS
    starts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    step = 0 if last is None else int(last.name.split("-")[1])
    kept = starts[0]["one_dnn"] if starts else job.cpu and one_dnn_is_faster()
    made = {"from_step": step, "one_dnn": kept, "threads": torch.get_num_threads(), **provenance()}
    atomic_write(file, json.dumps([*starts, made], indent=1) + "\n")


def _trainer(
    job: Job, texts: Cut, model: Any, args: Any, processes: int, tell: Callable[[Tick], None]
) -> LongTrainer:
    trainer = LongTrainer(
        model=model,
        args=args,
        train_dataset=sequences(texts.train.rows(), job.recipe, processes),
        eval_dataset=_looks(texts.held_out, job.rhythm.looks),
        data_collator=collate,
        callbacks=[
            EndEvaluated(),
            MarkComplete(),
            Ticks(tell, job.recipe.sequences(processes) * job.recipe.length),
        ],
    )
    trainer.silence()
    trainer.one_dnn = json.loads((job.out / STARTS).read_text(encoding="utf-8"))[0]["one_dnn"]
    return trainer


def _finished(
    job: Job, texts: Cut, tokenizer: Any, trainer: LongTrainer, done: Extension, state: Any
) -> dict[str, Any]:
    """Save, verify, record; the record comes last."""
    began = read_run(job.out, SCHEMA)["settings"]["model"]
    verified = save_result(trainer, job.recipe, job.model, tokenizer, job.out, done, began=began)
    record = {
        "schema": SCHEMA,
        "model": job.model,
        "method": done.method,
        "recipe": job.recipe.to_dict(),
        "processes": state.num_processes,
        "sharding": kind(trainer),
        "texts": _described(texts.train),
        "held_out": None if texts.held_out is None else _described(texts.held_out),
        "history": [entry for entry in trainer.state.log_history if "train_runtime" not in entry],
        "verified": verified,
        "starts": json.loads((job.out / STARTS).read_text(encoding="utf-8")),
    }
    if state.is_main_process:
        atomic_write(job.out / RECORD, json.dumps(record, indent=1) + "\n")
        remove_checkpoints(job.out)
    state.wait_for_everyone()
    return record


def _described(chunks: Chunks) -> dict[str, Any]:
    return {
        "key": chunks.key,
        "chunks": len(chunks),
        "tokens": chunks.tokens,
        "left_over": chunks.left_over,
        "documents": {d.name: d.tokens for d in chunks.documents},
    }


def _looks(chunks: Chunks | None, count: int) -> Sequences | None:
    return None if chunks is None else spread(chunks.rows(), count)


def _check_vocabulary(model: Any, texts: Cut) -> None:
    rows = model.get_input_embeddings().num_embeddings
    largest = max(c.largest for c in (texts.train, texts.held_out) if c is not None)
    if largest >= rows:
        raise ValueError(
            f"the tokenizer makes token {largest}, but the model has embeddings for {rows}: "
            "they do not belong together"
        )
