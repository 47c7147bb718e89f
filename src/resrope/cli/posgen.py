"""`resrope posgen`: generate, show, rules, run, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resrope.cli.values import assignments, names, numbers

if TYPE_CHECKING:
    from rich.progress import Progress

    from resrope.posgen.presets import Settings
    from resrope.posgen.record import Cell

posgen = typer.Typer(
    name="posgen",
    help="The benchmark: sequences, pictures, training runs, reports.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="recursive, cot, semi-recursive; again or with commas for several."),
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a field of the preset: --set epochs=3; may be given again."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@posgen.command()
def generate(
    task: Annotated[str, typer.Option(help="recursive, cot or semi-recursive.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    seed: Annotated[int, typer.Option(help="Of the prefixes; ≥ 0.")] = 0,
    changes: _Set = None,
    json_output: _Json = False,
) -> None:
    """Write train, validation and test sequences as Parquet, with a manifest of settings and hashes.

    Example: `resrope posgen generate --task cot --out data/cot --set test_length=512`,
    then in Python `datasets.load_dataset("data/cot")`.
    """
    from resrope import __version__
    from resrope.cli.output import print_json
    from resrope.posgen.presets import preset
    from resrope.posgen.splits import make_splits
    from resrope.posgen.store import read_manifest, write_splits

    settings = preset("paper").override(assignments(changes or []))
    made = settings.task(task)
    splits = make_splits(made, **settings.split_sizes(), seed=seed)
    wrote = write_splits(out, made, splits, seed=seed, version=__version__)
    if json_output:
        print_json(read_manifest(out))
        return
    sizes = ", ".join(f"{name} {rows.shape[0]} × {rows.shape[1]}" for name, rows in splits.by_name().items())
    typer.echo(f"{out}: {sizes}; {'written' if wrote else 'already there, nothing written'}")


@posgen.command()
def show(
    tasks: _Tasks = None,
    position: Annotated[int, typer.Option(help="The token to explain.")] = 12,
    modulus: Annotated[int, typer.Option(help="m, the size of the vocabulary.")] = 7,
    j: Annotated[int, typer.Option("--j", help="Front tokens.")] = 1,
    k: Annotated[int, typer.Option("--k", help="Local tokens.")] = 3,
    prefix: Annotated[
        str | None, typer.Option(help="The first j+k tokens: 1,2,3,4.  [default: random]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a random prefix.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw Figure 2 (.png, .svg, .pdf).")] = None,
) -> None:
    """Figure 2: a sequence, the token being generated and the tokens it depends on.

    Example: `resrope posgen show --task cot --position 12 --plot figure2.png`
    """
    from resrope.cli.output import console
    from resrope.posgen.show import draw, example, render_text
    from resrope.posgen.tasks import TASKS, Task

    given = None if prefix is None else numbers("--prefix", prefix)
    examples = [
        example(Task(name=name, j=j, k=k, modulus=modulus), position, prefix=given, seed=seed)
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
    tasks: _Tasks = None,
    functions: Annotated[
        list[str] | None,
        typer.Option(
            "--h", help="sum, latin, product, lookup, bit; again or with commas.  [default: all of them]"
        ),
    ] = None,
    changes: _Set = None,
    json_output: _Json = False,
) -> None:
    """What rules on the last tokens score without finding any token by its position, task by task.

    Derived where h can be solved for its arguments, counted over all front tokens where not.

    Example: `resrope posgen rules --task cot,semi-recursive --h sum,bit`

    Example: `resrope posgen rules --h sum --set modulus=19 --set test_length=1024`
    """
    from resrope.cli.output import print_grid, print_json
    from resrope.posgen.functions import FUNCTIONS
    from resrope.posgen.presets import preset
    from resrope.posgen.rules import grid, rules, to_dict
    from resrope.posgen.tasks import TASKS

    settings = preset("paper").override(assignments(changes or []))
    asked = [
        settings.override({"h": h}).task(name)
        for h in (FUNCTIONS if functions is None else names("--h", functions))
        for name in (TASKS if tasks is None else names("--task", tasks))
    ]
    found = [rules(task, settings.train_length, settings.test_length) for task in asked]
    if json_output:
        print_json([to_dict(one) for one in found])
    else:
        print_grid(grid(found, settings.train_length, settings.test_length))


@posgen.command()
def run(
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run there goes on.")],
    preset: Annotated[
        str, typer.Option(help="quick (minutes), small (an hour, 5 seeds), paper (days).")
    ] = "quick",
    tasks: _Tasks = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="rope, yarn, linear, …, resonance-yarn; again or with commas for several."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Comma-separated: 0,1,2.  [default: the preset's]")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Parallel processes.  [default: one a processor]")] = None,
    changes: _Set = None,
    json_output: _Json = False,
) -> None:
    """Train and test every task × method × seed that OUT does not hold yet, then write the report.

    Stopped at any moment and started again it goes on where it was. Without --task and --method: the
    12 cells of Table 1.

    Example: `resrope posgen run --preset quick --out runs/quick`

    Example: `resrope posgen run --preset quick --task cot --method rope,ntk --set factor=8 --out runs/ntk`
    """
    from resrope.posgen import presets
    from resrope.posgen.record import open_run
    from resrope.posgen.runner import check_jobs, default_jobs, matrix
    from resrope.posgen.tasks import TASKS
    from resrope.rundir import only_run
    from resrope.spec import frequencies

    _require_extras()
    settings = presets.preset(preset).override(assignments(changes or []))
    chosen_tasks = TASKS if tasks is None else names("--task", tasks)
    chosen_methods = presets.TABLE_1_METHODS if methods is None else names("--method", methods)
    chosen_seeds = presets.SEEDS[preset] if seeds is None else numbers("--seeds", seeds)
    for name in chosen_tasks:
        settings.task(name)
    for name in chosen_methods:
        frequencies(settings.spec(name), seq_len=settings.test_length)
    cells = matrix(chosen_tasks, chosen_methods, chosen_seeds)
    processes = default_jobs() if jobs is None else check_jobs(jobs)
    open_run(out, preset, settings)
    with only_run(out):
        _train(out, cells, settings, processes, quiet=json_output)
        _report(out, json_output)


@posgen.command()
def report(
    out: Annotated[Path, typer.Argument(help="The folder of a run.")],
    json_output: _Json = False,
) -> None:
    """Write report.html, report.md, report.json and the pictures of a run's finished cells; print Table 1.

    Example: `resrope posgen report runs/quick`
    """
    _require_extras()
    _report(out, json_output)


def _require_extras() -> None:
    """Say what is missing before hours of work, not after."""
    try:
        import matplotlib.figure  # noqa: F401
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise ImportError(f"PosGen runs need {error.name}: pip install 'resrope[posgen]'") from error


def _train(out: Path, cells: Sequence[Cell], settings: Settings, jobs: int, *, quiet: bool) -> None:
    from resrope.posgen.record import read_record
    from resrope.posgen.runner import run_matrix
    from resrope.posgen.train import total_steps

    pending = sum(read_record(out, cell) is None for cell in cells)
    if not pending:
        return
    total = pending * total_steps(settings)
    with _progress(quiet) as bar:
        work = bar.add_task(f"{pending} cell{'s' * (pending > 1)}", total=total)

        def finished(cell: Cell, record: dict[str, Any]) -> None:
            if not quiet:
                bar.console.print(_one_cell(cell, record), highlight=False)

        run_matrix(
            out,
            cells,
            settings,
            jobs=jobs,
            progress=lambda cell, steps: bar.advance(work, steps),
            finished=finished,
        )
        bar.update(work, completed=total)


def _progress(quiet: bool) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from resrope.cli.output import console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    return Progress(*columns, console=console(), disable=quiet)


def _one_cell(cell: Cell, record: dict[str, Any]) -> str:
    last = record["last"]
    return (
        f"{cell.name:<36} {100 * last['in_distribution']:5.1f} % in distribution, "
        f"{100 * last['ood']:5.1f} % OOD, {record['made']['seconds']:.0f} s"
    )


def _report(out: Path, json_output: bool) -> None:
    from resrope.cli.output import console, print_grid, print_json
    from resrope.posgen.page import write_report
    from resrope.posgen.tables import all_grids

    summary, files = write_report(out)
    if json_output:
        print_json(summary)
        return
    terminal = console()
    for grid in all_grids(summary):
        print_grid(grid, terminal)
    terminal.print(f"Embeddings: {summary['embedding']}", highlight=False)
    for path in files.values():
        terminal.print(str(path), highlight=False, soft_wrap=True)
