"""transformers' Trainer on our chunks: its arguments, and what it lacks, in a subclass and callbacks."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedDataParallelKwargs, PartialState
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from resrope.files import atomic_write
from resrope.finetune.recipe import Recipe, order
from resrope.finetune.sharding import sharding_on_cpus
from resrope.longtext.products import fast_products
from resrope.spec import check

# Written into a checkpoint when all of it is there; a kill in the middle leaves one without.
COMPLETE = "complete"
_PREFIX = "checkpoint-"
LOGGERS = ("tensorboard", "wandb", "mlflow")


class NotFiniteError(ValueError):
    """A loss or gradient that is no number: the run cannot go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rhythm:
    """What a run does beside its steps; nothing of it changes a weight. save, evaluate: every so many steps.
    looks: sequences of the held-out texts that are read each time, spread over all of them. report_to:
    transformers' own: tensorboard, wandb, mlflow."""

    save: int = 50
    evaluate: int = 50
    looks: int = 16
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("save", "evaluate", "looks"):
            check.integer(name, getattr(self, name), 1, "steps, or sequences of a look")
        for name in self.report_to:
            check.one_of("report_to", name, LOGGERS)
            if find_spec(name) is None:
                raise ImportError(f"report_to {name} needs its package: pip install {name}")


class Sequences(torch.utils.data.Dataset[Any]):
    """The chunks in the order in which they are read: item i is the run's i-th sequence."""

    def __init__(self, rows: Any, indices: list[int]) -> None:
        self._rows = rows
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._rows[self._indices[index]]["input_ids"]


def spread(rows: Any, count: int) -> Sequences:
    """At most ``count`` of the chunks, at even distances."""
    picked = min(count, len(rows))
    return Sequences(rows, [i * len(rows) // picked for i in range(picked)])


def collate(chunks: list[Any]) -> dict[str, Tensor]:
    """[batch, length] token ids, which are their own labels."""
    ids = torch.from_numpy(np.stack(chunks).astype(np.int64))
    return {"input_ids": ids, "labels": ids.clone()}


class LongTrainer(Trainer):
    """A Trainer that stops at the first number that is none, before it reaches the weights.

    one_dnn: whether it makes a CPU's products, None: where it is faster.
    """

    one_dnn: bool | None = None
    _last_log = 0.0

    def create_accelerator_and_postprocess(self) -> None:
        """transformers' own, with FSDP on CPUs too."""
        with sharding_on_cpus():
            super().create_accelerator_and_postprocess()

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """transformers' own; copies of a model hold their gradients once, in the buckets they exchange."""
        made: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        for one in made["kwargs_handlers"]:
            if isinstance(one, DistributedDataParallelKwargs):
                one.gradient_as_bucket_view = True
        return made

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, with the clock of ``log`` set."""
        self._last_log = time.monotonic()
        return super().train(*args, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward. Raises NotFiniteError."""
        with fast_products(self.args.device, self.one_dnn):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._check("loss", loss)
        return loss

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Of the held-out sequences."""
        with fast_products(self.args.device, self.one_dnn):
            return super().prediction_step(*args, **kwargs)

    def silence(self) -> None:
        """No printing of its own: the caller has its own bar."""
        from transformers import PrinterCallback, ProgressCallback

        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Every entry says the seconds since the one before it."""
        now = time.monotonic()
        since, self._last_log = now - self._last_log, now
        super().log({**logs, "seconds": round(since, 3)}, start_time)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called between clipping and the update."""
        norm: Any = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None:
            self._check("length of the gradient", norm)
        return norm

    def _check(self, what: str, value: Any) -> None:
        if not math.isfinite(value):
            last = last_complete(Path(str(self.args.output_dir)))
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
            raise NotFiniteError(
                f"step {self.state.global_step + 1}: the {what} is {float(value)}; {kept}; "
                "try a lower --learning-rate"
            )


class EndEvaluated(TrainerCallback):
    """The last step is followed by the held-out text, whatever the rhythm."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the update."""
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True


class MarkComplete(TrainerCallback):
    """Marks every checkpoint whose files are all there, and only then deletes the ones before it."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the last file of this process; the others may still be writing theirs."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            newest = folder / f"{_PREFIX}{state.global_step}"
            atomic_write(newest / COMPLETE, "")
            for one in folder.glob(f"{_PREFIX}*"):
                if one != newest:
                    _remove(one)
        PartialState().wait_for_everyone()


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that was written to its end."""
    done = [p for p in folder.glob(f"{_PREFIX}*") if (p / COMPLETE).is_file()]
    return max(done, key=lambda p: int(p.name.removeprefix(_PREFIX)), default=None)


def remove_incomplete(folder: Path) -> None:
    """Delete what a kill left of a checkpoint."""
    for one in folder.glob(f"{_PREFIX}*"):
        if not (one / COMPLETE).is_file():
            _remove(one)


def remove_checkpoints(folder: Path) -> None:
    """Delete all of them; the run is over."""
    for one in folder.glob(f"{_PREFIX}*"):
        _remove(one)


def _remove(checkpoint: Path) -> None:
    """The mark first: a kill in between must not leave a marked half."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """Where a run is after a step. first: the step behind which this start began. tokens: read since then, by
    all processes; seconds: since then, held-out texts and checkpoints among them."""

    step: int
    first: int
    loss: float
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Ticks(TrainerCallback):
    """Tells where the run is after every step."""

    def __init__(self, tell: Callable[[Tick], None], tokens_per_step: int) -> None:
        self._tell, self._tokens = tell, tokens_per_step
        self._first, self._start = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock starts."""
        self._first, self._start = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """A loss is there."""
        if state.is_world_process_zero and logs and "loss" in logs:
            self._tell(
                Tick(
                    step=state.global_step,
                    first=self._first,
                    loss=logs["loss"],
                    tokens=(state.global_step - self._first) * self._tokens,
                    seconds=time.monotonic() - self._start,
                )
            )


def arguments(
    recipe: Recipe, folder: Path, rhythm: Rhythm, *, held_out: bool, resumed: bool, cpu: bool
) -> TrainingArguments:
    """The Trainer's arguments for ``recipe``; its checkpoints go to ``folder``."""
    schedule = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}[recipe.schedule]
    made = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        # The first update of a warm-up has rate 0: a run of one step must have none.
        warmup_steps=min(math.ceil(recipe.warmup * recipe.steps), recipe.steps - 1),
        lr_scheduler_type=schedule,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bf16",
        seed=recipe.seed,
        data_seed=recipe.seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=rhythm.save,
        eval_strategy="steps" if held_out else "no",
        eval_steps=rhythm.evaluate,
        eval_on_start=held_out and not resumed,
        prediction_loss_only=True,
        report_to=list(rhythm.report_to) or "none",
        disable_tqdm=True,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu and torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    if made.n_gpu > 1:  # one process would copy the model to every GPU at every step
        made._n_gpu = 1
    return made


def sequences(rows: Any, recipe: Recipe, processes: int) -> Sequences:
    """All sequences of a run in one order: the processes take turns, however many they are."""
    needed = recipe.steps * recipe.sequences(processes)
    return Sequences(rows, order(len(rows), needed, recipe.seed))
