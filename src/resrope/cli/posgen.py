"""`resrope posgen`: its commands, of which generate, show and rules train nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resrope.cli.posgen_look import attention, window
from resrope.cli.posgen_options import Json, Set, Tasks
from resrope.cli.posgen_results import board, submit, validate
from resrope.cli.posgen_runs import audit, report, run
from resrope.cli.values import assignments, names, numbers

if TYPE_CHECKING:
    from resrope.posgen.settings import Settings

posgen = typer.Typer(
    name="posgen",
    help="The benchmark: sequences, pictures, training runs, reports.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@posgen.command()
def generate(
    task: Annotated[str, typer.Option(help="recursive, cot or semi-recursive.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    seed: Annotated[int, typer.Option(help="Of the prefixes; ≥ 0.")] = 0,
    changes: Set = None,
    json_output: Json = False,
) -> None:
    """Write train, validation and test sequences as Parquet, with a manifest of settings and hashes.

    Example: `resrope posgen generate --task cot --out data/cot --set test_length=512`,
    then in Python `datasets.load_dataset("data/cot")`.
    """
    from resrope import __version__
    from resrope.cli.output import print_json
    from resrope.posgen.splits import make_splits
    from resrope.posgen.store import read_manifest, write_splits

    settings = _of_data(assignments(changes or []))
    made = settings.task(task)
    splits = make_splits(made, **settings.split_sizes(), seed=seed)
    wrote = write_splits(out, made, splits, seed=seed, version=__version__, split=settings.split)
    if json_output:
        print_json(read_manifest(out))
        return
    sizes = ", ".join(f"{name} {rows.shape[0]} × {rows.shape[1]}" for name, rows in splits.by_name().items())
    typer.echo(f"{out}: {sizes}; {'written' if wrote else 'already there, nothing written'}")


@posgen.command()
def show(
    tasks: Tasks = None,
    position: Annotated[int, typer.Option(help="The token to explain.")] = 12,
    modulus: Annotated[int, typer.Option(help="m, the size of the vocabulary.")] = 7,
    j: Annotated[int, typer.Option("--j", help="Front tokens.")] = 1,
    k: Annotated[int, typer.Option("--k", help="Local tokens.")] = 3,
    h: Annotated[str, typer.Option("--h", help="sum, latin, product, lookup, bit.")] = "sum",
    h_seed: Annotated[int, typer.Option(help="Of an h that is drawn at random.")] = 0,
    prefix: Annotated[
        str | None, typer.Option(help="The first j+k tokens: 1,2,3,4.  [default: random]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a random prefix.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw Figure 2 (.png, .svg, .pdf).")] = None,
) -> None:
    """Figure 2: a sequence, the token being generated and the tokens it depends on.

    Example: `resrope posgen show --task cot --position 12 --plot figure2.png`

    Example: `resrope posgen show --task semi-recursive --h bit`
    """
    from resrope.cli.output import console
    from resrope.posgen.show import draw, example, render_text
    from resrope.posgen.tasks import TASKS, Task

    given = None if prefix is None else numbers("--prefix", prefix)
    examples = [
        example(
            Task(name=name, j=j, k=k, modulus=modulus, h=h, h_seed=h_seed), position, prefix=given, seed=seed
        )
        for name in (TASKS if tasks is None else names("--task", tasks))
    ]
    if plot is not None:
        draw(examples, plot)
    out = console()
    for one in examples:
        out.print(render_text(one, width=out.width, markup=True), highlight=False)
        out.print()
    if plot is not None:
        out.print(f"picture: {plot}", highlight=False)


@posgen.command()
def rules(
    tasks: Tasks = None,
    functions: Annotated[
        list[str] | None,
        typer.Option(
            "--h", help="sum, latin, product, lookup, bit; again or with commas.  [default: all of them]"
        ),
    ] = None,
    changes: Set = None,
    json_output: Json = False,
) -> None:
    """What rules on the last tokens score without finding any token by its position, task by task.

    Derived where h can be solved for its arguments, counted over all front tokens where not.

    Example: `resrope posgen rules --task cot,semi-recursive --h sum,bit`

    Example: `resrope posgen rules --h sum --set modulus=19 --set test_length=1024`
    """
    from resrope.cli.output import print_grid, print_json
    from resrope.posgen.functions import FUNCTIONS
    from resrope.posgen.rules import grid, rules, to_dict
    from resrope.posgen.tasks import TASKS

    given = assignments(changes or [])
    settings = _of_data(given)
    every = (str(given["h"]),) if "h" in given else FUNCTIONS
    names_of_h = every if functions is None else names("--h", functions)
    asked = [
        settings.override({"h": h}).task(name)
        for h in names_of_h
        for name in (TASKS if tasks is None else names("--task", tasks))
    ]
    found = [rules(task, settings.train_length, settings.test_length) for task in asked]
    if json_output:
        print_json([to_dict(one) for one in found])
    else:
        print_grid(grid(found, settings.train_length, settings.test_length))


def _of_data(given: dict[str, Any]) -> Settings:
    """The paper's settings with these changed. Raises ValueError for a field that changes no sequence."""
    from resrope.posgen.presets import preset
    from resrope.posgen.settings import DATA

    settings = preset("paper").override(given)
    other = next((name for name in given if name not in DATA), None)
    if other is not None:
        raise ValueError(f"--set {other} changes no sequence; {', '.join(DATA)} do")
    return settings


for command in (run, report, audit, attention, window, submit, validate, board):
    posgen.command()(command)
