"""`resrope posgen run`, `report` and `audit`: what trains, and what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resrope.cli.posgen_options import (
    Cluster,
    Device,
    Jobs,
    Json,
    Methods,
    Seeds,
    Set,
    Settled,
    Tasks,
    Together,
)
from resrope.cli.posgen_train import how_of, train
from resrope.cli.values import assignments, names, numbers

if TYPE_CHECKING:
    from resrope.posgen.record import Cell
    from resrope.posgen.settings import Settings


def run(
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run there goes on.")],
    preset: Annotated[
        str,
        typer.Option(
            help="quick (minutes), small (an hour, 5 seeds), paper (days); as the authors' code: "
            "quick-released, small-released, released."
        ),
    ] = "quick",
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    cluster: Cluster = None,
    together: Together = None,
    device: Device = None,
    settled: Settled = False,
    changes: Set = None,
    json_output: Json = False,
) -> None:
    """Train and test every task × method × seed that OUT does not hold yet, then write the report.

    Stopped at any moment and started again it goes on where it was. Without --task and --method: the
    12 cells of Table 1.

    Example: `resrope posgen run --preset quick --out runs/quick`

    Example: `resrope posgen run --preset quick --task cot --method rope,ntk --set factor=8 --out runs/ntk`
    """
    from resrope.posgen import presets
    from resrope.posgen.record import begun, open_run
    from resrope.rundir import only_run

    _require_extras()
    settings = presets.preset(preset).override(assignments(changes or []))
    cells = _cells(preset, settings, tasks, methods, seeds)
    how = how_of(jobs, cluster, together, device, settled=settled, quiet=json_output)
    begun(out, settings)  # before anything is put there, a lock least of all
    with only_run(out):
        open_run(out, preset, settings)
        train(out, cells, settings, how)
        _report(out, json_output)


def report(
    out: Annotated[Path, typer.Argument(help="The folder of a run.")],
    json_output: Json = False,
) -> None:
    """Write report.html, report.md, report.json and the pictures of a run's finished cells; print Table 1.

    Example: `resrope posgen report runs/quick`
    """
    _require_extras()
    _report(out, json_output)


def audit(
    out: Annotated[Path, typer.Option(help="A folder for all runs; what is finished there is kept.")],
    preset: Annotated[str, typer.Option(help="Where the ladder ends: quick, small or paper.")] = "small",
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    cluster: Cluster = None,
    together: Together = None,
    device: Device = None,
    settled: Settled = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="Throw every switch alone, on the preset, instead.")
    ] = False,
    changes: Set = None,
    json_output: Json = False,
) -> None:
    """What the authors' code does otherwise, turned back one switch at a time, and what each makes of Table
    1.

    The first rung has all switches of their code, the last one is the preset itself. Every rung is a run of
    its own in OUT, which goes on where it was stopped; what a switch leaves as it was is not trained again.

    Example: `resrope posgen audit --preset quick --task cot --out runs/audit`
    """
    from resrope.cli.output import console, print_grid
    from resrope.posgen.presets import preset as named
    from resrope.posgen.report import audit as ladders
    from resrope.posgen.reuse import take_over
    from resrope.rundir import only_run

    _require_extras()
    paper = named(preset).override(assignments(changes or []))
    rungs = (ladders.alone if alone else ladders.ladder)(paper)
    cells = {rung.name: _cells(preset, rung.settings, tasks, methods, seeds) for rung in rungs}
    how = how_of(jobs, cluster, together, device, settled=settled, quiet=json_output)
    with only_run(out):
        folders = ladders.open_all(out, preset, rungs)
        for number, (rung, folder) in enumerate(zip(rungs, folders, strict=True), 1):
            if not json_output:
                typer.echo(f"{folder} ({number} of {len(rungs)})", err=True)
            with only_run(folder):
                taken = take_over(folder, cells[rung.name], rung.settings, folders[: number - 1])
                if taken and not json_output:
                    typer.echo(f"taken from rungs above: {len(taken)} of {len(cells[rung.name])}", err=True)
                train(folder, cells[rung.name], rung.settings, how)
            grids, files = ladders.write_audit(out, rungs)
    if json_output:
        typer.echo(files["audit.json"].read_text(encoding="utf-8"), nl=False)
        return
    terminal = console()
    for grid in grids:
        print_grid(grid, terminal)
    for path in files.values():
        terminal.print(str(path), highlight=False, soft_wrap=True)


def _cells(
    preset: str,
    settings: Settings,
    tasks: list[str] | None,
    methods: list[str] | None,
    seeds: str | None,
) -> list[Cell]:
    """The matrix that was asked for. Raises ValueError for what is not there."""
    from resrope.posgen import presets
    from resrope.posgen.embeddings import check_embedding
    from resrope.posgen.runner import matrix
    from resrope.posgen.tasks import TASKS

    chosen_tasks = TASKS if tasks is None else names("--task", tasks)
    chosen_methods = presets.TABLE_1_METHODS if methods is None else names("--method", methods)
    chosen_seeds = presets.SEEDS[preset] if seeds is None else numbers("--seeds", seeds)
    for name in chosen_tasks:
        settings.task(name)
    for name in chosen_methods:
        check_embedding(name, settings)
    return matrix(chosen_tasks, chosen_methods, chosen_seeds)


def _require_extras() -> None:
    """Say what is missing before hours of work, not after."""
    try:
        import matplotlib.figure  # noqa: F401
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise ImportError(f"PosGen runs need {error.name}: pip install 'resrope[posgen]'") from error


def _report(out: Path, json_output: bool) -> None:
    from resrope.cli.output import console, print_grid, print_json
    from resrope.posgen.report.page import write_report
    from resrope.posgen.report.tables import all_grids

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
