"""`resrope finetune`: a model, a method and texts to a checkpoint for longer contexts."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resrope.cli import longtext
from resrope.cli.steps import steps as steps_shown
from resrope.cli.values import assignments

if TYPE_CHECKING:
    from resrope.finetune.recipe import Recipe


def finetune(
    model: longtext.Model,
    out: Annotated[Path, typer.Argument(help="The folder of the run.", show_default=False)],
    method: Annotated[
        str | None,
        typer.Option(help="yarn, ntk, …, resonance-yarn.  [default: the tables that MODEL has]"),
    ] = None,
    factor: Annotated[float | None, typer.Option(help="Target / original length.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="Another parameter of the method: beta_fast=16.")
    ] = None,
    replace: longtext.Replace = False,
    texts: longtext.Texts = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", help="Texts whose perplexity is told before, during and after."),
    ] = None,
    column: longtext.Column = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a sequence.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the weights.", show_default=False)] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Of the whole run, 100M: sets --accumulation.", show_default=False),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences that a process holds.  [default: 1]")] = None,
    accumulation: Annotated[int | None, typer.Option(help="Batches of an update.  [default: 1]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.  [default: 2e-5]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.  [default: 1e-2]")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps.  [default: 0.05]")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="After the warm-up: linear, cosine, constant.  [default: linear]")
    ] = None,
    tuning: Annotated[str | None, typer.Option(help="full, lora, qlora.  [default: full]")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="[default: 16]")] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="[default: 32]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bf16 arithmetic.  [default: bf16 on a GPU, else float32]")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Positions whose logits are there at a time.  [default: 512]")
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing",
            help="Compute layers again in the backward: more time, a fraction of the memory.  [default: on]",
            show_default=False,
        ),
    ] = None,
    attn: Annotated[
        str | None,
        typer.Option(help="transformers' attention: sdpa, flash_attention_2.  [default: its choice]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of the texts.  [default: 0]")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="One of the paper's: llama2-7b-32k, llama2-7b-4k, llama2-13b-16k, llama2-13b-4k; what else "
            "is given goes before it."
        ),
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="Read the texts more than once.")] = False,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 50,
    evaluate_every: Annotated[int, typer.Option(help="Steps between two looks at the held-out texts.")] = 50,
    looks: Annotated[int, typer.Option(help="Held-out sequences that are read at each look.")] = 16,
    report_to: Annotated[
        list[str] | None, typer.Option(help="tensorboard, wandb, mlflow: transformers' own.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where tokenised texts are kept.  [default: ~/.cache/resrope/chunks]")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what a step takes, in memory and time; needs no texts."),
    ] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave accelerators alone.")] = False,
    json_output: longtext.Json = False,
) -> None:
    """Fine-tune a model to a longer context with transformers' Trainer; the result opens in stock loaders.

    Killed and started again with the same command, it goes on; on a CPU to the same bits. Under `accelerate
    launch` it runs on many GPUs (docs/finetuning.md).

    Example: `resrope finetune path/to/model OUT --length 32768 --steps 1 --dry-run`

    Example: `resrope finetune smollm2 runs/smollm2-32k --method resonance-yarn --factor 4 --text books
    --held-out emma.txt --length 4096 --steps 400`
    """
    given = {
        "length": length,
        "steps": steps,
        "method": method,
        "replace_scaling": replace or None,
        "batch": batch,
        "accumulation": accumulation,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup": warmup,
        "schedule": schedule,
        "tuning": tuning,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
        "precision": precision,
        "chunk": chunk,
        "checkpointing": checkpointing,
        "attention": attn,
        "seed": seed,
    }
    chosen = _recipe(
        recipe, {k: v for k, v in given.items() if v is not None}, factor, parameters, tokens, cpu
    )
    _quiet_extras()
    longtext.pictures_first()
    longtext.quiet_libraries()
    if dry_run:
        _print_estimate(model, chosen, cpu, json_output)
        return
    if not texts:
        raise ValueError("--text must be given: a file, a folder or a data set")
    from resrope.finetune.run import Job
    from resrope.finetune.run import finetune as run
    from resrope.finetune.trainer import Rhythm

    job = Job(
        model=model,
        out=out,
        recipe=chosen,
        texts=texts,
        held_out=held_out or (),
        column=column,
        repeat=repeat,
        rhythm=Rhythm(
            save=save_every, evaluate=evaluate_every, looks=looks, report_to=tuple(report_to or ())
        ),
        cpu=cpu,
        **({} if cache is None else {"cache": cache}),
    )
    with steps_shown(chosen.steps) as tell:
        record = run(job, announce=_announce, tell=tell)
    _report(record, out, json_output)


def _report(record: dict[str, Any], out: Path, json_output: bool) -> None:
    """By the process that speaks."""
    from accelerate import PartialState

    from resrope.cli.output import console, print_grid, print_json
    from resrope.finetune.report import grids, report_files

    if not PartialState().is_main_process:
        return
    longtext.write_files(out, report_files(record, shlex.join(["resrope", *sys.argv[1:]])))
    if json_output:
        print_json(record)
        return
    for grid in grids(record):
        print_grid(grid)
    line = f"{out / 'model'}: verified, report: {out / 'report.html'}"
    console().print(line, highlight=False, soft_wrap=True)


def _recipe(
    name: str | None,
    given: dict[str, Any],
    factor: float | None,
    pairs: list[str] | None,
    tokens: str | None,
    cpu: bool,
) -> Recipe:
    """Defaults, or a named recipe, with what was given in their place."""
    from resrope.finetune.recipe import Recipe
    from resrope.finetune.recipes import RECIPES, TOKENS

    parameters = assignments(pairs or [])
    if factor is not None and "factor" in parameters:
        raise ValueError(f"factor is given twice: {factor} and --set factor={parameters['factor']}")
    parameters |= {} if factor is None else {"factor": factor}
    if tokens is not None and "accumulation" in given:
        raise ValueError("--tokens sets --accumulation: give one of them")
    if name is not None and name not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    known: dict[str, Any] = {"precision": _precision(cpu)}
    known = known if name is None else RECIPES[name].recipe.to_dict()
    values = {**known, **given, "parameters": {**known.get("parameters", {}), **parameters}}
    if parameters and "method" not in values:
        raise ValueError(f"{', '.join(parameters)} must come with a method, got none")
    missing = [f"--{n}" for n in ("length", "steps") if n not in values]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given")
    made = Recipe(**values)
    if tokens is not None:
        return made.with_tokens(_count(tokens), _processes())
    settled = name is None or "accumulation" in given
    return made if settled else made.with_tokens(TOKENS, _processes())


def _processes() -> int:
    """How many a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _count(text: str) -> int:
    """``100M`` or ``1.5G`` or ``4096`` tokens."""
    scale = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:], 1)
    try:
        count = round(float(text.removesuffix(text[-1]) if scale > 1 else text) * scale)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(f"--tokens takes a number >= 1, or one with k, M or G behind it, got {text!r}")
    return count


def _print_estimate(model: str, recipe: Recipe, cpu: bool, json_output: bool) -> None:
    from dataclasses import asdict

    import torch

    from resrope.cli.output import print_grid, print_json
    from resrope.finetune.fits import grid, rows
    from resrope.longtext.memory import available

    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    longtext.tell("taking steps without numbers")
    found = rows(model, recipe, device)
    if json_output:
        print_json([{**asdict(row), "seconds": row.seconds} for row in found])
    else:
        print_grid(grid(model, recipe, found, available(device)))


def _precision(cpu: bool) -> str:
    import torch

    return "bf16" if not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def _quiet_extras() -> None:
    """DeepSpeed and bitsandbytes say at every start on a CPU that there is nothing faster; no more."""
    import logging

    import torch

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _announce(line: str) -> None:
    """On standard error, so that --json stays alone on the other; one process speaks."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        typer.echo(line, err=True)
