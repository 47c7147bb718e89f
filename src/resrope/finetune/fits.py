"""Whether a fine-tuning fits into memory, what would, and a table of what it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from resrope.finetune.estimate import Estimate, estimate, loaded
from resrope.finetune.recipe import TUNINGS, Recipe
from resrope.finetune.source import config_of
from resrope.longtext.memory import available, gib
from resrope.page import Grid

# Processes over which the table shards.
SHARDS = (1, 2, 4, 8)
_STEP = 512
_SIDE, _ROUNDS = 2048, 5
# What kernels use inside and libraries load on the way.
BESIDE = 1 << 28


def check_fits(
    path: str | Path, recipe: Recipe, *, cpu: bool, processes: int = 1, here: int = 1, sharded: bool = False
) -> None:
    """Raise ValueError, with what would fit, when a step does not fit into the memory that is free.

    processes: of all machines; sharded: the weights are split over them. here: of this machine, which share
    its main memory.
    """
    free = available(torch.device("cpu" if cpu else "cuda" if torch.cuda.is_available() else "cpu"))
    free = (free // here if cpu else free) - BESIDE
    config = config_of(path)

    def peak(recipe: Recipe) -> int:
        return estimate(config, recipe).peak(recipe.accumulation, processes, sharded=sharded)

    wanted = peak(recipe)
    if wanted <= free:
        return
    others = ((words, peak(other)) for words, other in _smaller(recipe))
    fitting = [f"{words} ({gib(bytes)})" for words, bytes in others if bytes <= free]
    shorter = _longest(peak, recipe, free)
    fitting += [f"--length {shorter}"] if shorter else []
    raise ValueError(
        f"a step needs about {gib(wanted)}, {gib(free)} are free: "
        f"{', or '.join(fitting) or 'nothing smaller'} would fit"
    )


def _smaller(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Recipes that take less, the nearest first."""
    if not recipe.checkpointing:
        yield "--checkpointing", replace(recipe, checkpointing=True)
    recipe = replace(recipe, checkpointing=True)
    if recipe.batch > 1:
        more = recipe.accumulation * recipe.batch
        yield f"--batch 1 --accumulation {more}", replace(recipe, batch=1, accumulation=more)
    if recipe.tuning == "full":
        yield "--tuning lora", replace(recipe, tuning="lora")


def check_main_memory(path: str | Path, recipe: Recipe, *, here: int) -> None:
    """Raise ValueError when main memory does not hold what lies there before and after the steps: all weights
    in each of the ``here`` processes of this machine, and at the end those that LoRA is added to."""
    free = available(torch.device("cpu")) - BESIDE
    config = config_of(path)
    each = loaded(config, recipe)
    if here * each > free:
        raise ValueError(
            f"processes of this machine load {here} × {gib(each)} into main memory, {gib(free)} are free: "
            f"{free // each or 'none'} would fit"
        )
    merged = 0 if recipe.tuning == "full" else loaded(config, replace(recipe, tuning="full"))
    if merged > free:
        raise ValueError(
            f"LoRA is added to weights of {gib(merged)} in main memory at the end, {gib(free)} are free"
        )


def _longest(peak: Callable[[Recipe], int], recipe: Recipe, free: int) -> int:
    """The longest multiple of 512 tokens that fits, 0 where none does; memory grows in proportion to it."""
    short = replace(recipe, length=max(_STEP, recipe.chunk))
    low, high = peak(short), peak(recipe)
    if low > free or recipe.length <= short.length:
        return 0
    slope = (high - low) / (recipe.length - short.length)
    return int((short.length + (free - low) / slope) // _STEP * _STEP)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One way to train. estimate: of one process; rate: flops a second that the machine makes of products."""

    tuning: str
    checkpointing: bool
    estimate: Estimate
    rate: float

    @property
    def seconds(self) -> float:
        """The least that one batch takes here: all of it at the rate of matrix products."""
        return self.estimate.flops / self.rate


def rows(path: str | Path, recipe: Recipe, device: torch.device) -> list[Row]:
    """Every tuning, with and without checkpointing; the rest as in ``recipe``."""
    config, rate = config_of(path), product_rate(device, recipe.precision)
    ways = [(tuning, on) for tuning in TUNINGS for on in (True, False)]
    return [
        Row(
            tuning=tuning,
            checkpointing=on,
            estimate=estimate(config, replace(recipe, tuning=tuning, checkpointing=on)),
            rate=rate,
        )
        for tuning, on in ways
    ]


def grid(path: str | Path, recipe: Recipe, found: list[Row], free: int) -> Grid:
    """The table that ``--dry-run`` prints."""
    header = ["", "weights", "gradients, AdamW", "activations"]
    header += ["one process", *(f"of {n} (FSDP)" for n in SHARDS[1:]), "s a batch ≥"]
    return Grid(
        f"{path}: {recipe.batch} × {recipe.length} tokens, {recipe.precision}",
        header,
        [_cells(row, recipe, free) for row in found],
        "GiB of memory at the peak of a step, counted on tensors without numbers; what kernels use inside "
        f"and the process itself come on top. ! more than the {gib(free)} that are free here. Seconds: "
        f"operations over this machine's rate of matrix products, {found[0].rate / 1e12:.2f} TFLOP/s.",
    )


def _cells(row: Row, recipe: Recipe, free: int) -> list[str]:
    made = row.estimate
    peaks = [made.peak(recipe.accumulation, n, sharded=True) for n in SHARDS]
    return [
        row.tuning + ("" if row.checkpointing else ", no checkpointing"),
        *(f"{n / 2**30:.2f}" for n in (made.weights, made.gradients + made.moments, made.activations)),
        *(f"{peak / 2**30:.2f}" + (" !" if peak > free else "") for peak in peaks),
        f"{row.seconds:.3g}",
    ]


@torch.inference_mode()
def product_rate(device: torch.device, precision: str) -> float:
    """Flops a second of square matrix products, the best of some."""
    from resrope.longtext.products import fast_products

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    best = float("inf")
    with fast_products(device):
        for _ in range(1 + _ROUNDS):
            start = time.perf_counter()
            float(torch.nn.functional.linear(one, one)[0, 0])  # waits for an accelerator
            best = min(best, time.perf_counter() - start)
    return float(2 * _SIDE**3 / best)
