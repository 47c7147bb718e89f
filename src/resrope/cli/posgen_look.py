"""`resrope posgen attention` and `window`: what finished cells look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resrope.cli.posgen_options import Json


def attention(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    task: Annotated[str, typer.Option(help="Of the cell: recursive, cot or semi-recursive.")],
    method: Annotated[str, typer.Option("--method", "--embedding", help="Of the cell.")],
    seed: Annotated[int, typer.Option(help="Of the cell.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the maps (.png, .svg, .pdf).")] = None,
    json_output: Json = False,
) -> None:
    """Where a trained cell's heads look: at the far token, at near ones, at distances never trained.

    Example: `resrope posgen attention runs/quick --task cot --method yarn --plot attention.png`
    """
    from resrope.cli.output import print_grid, print_json
    from resrope.pictures import save
    from resrope.posgen.record import Cell
    from resrope.posgen.report.attention import drawn, grid, look

    looked = look(run, Cell(task=task, method=method, seed=seed))
    if plot is not None:
        save(drawn(looked), plot)
    if json_output:
        positions = {"weight": looked.weight.tolist(), "correct": looked.correct.tolist()}
        distances = {"distance": looked.distance.tolist(), "by_distance": looked.by_distance.tolist()}
        print_json({**positions, **distances, "far": looked.far.tolist()})
    else:
        print_grid(grid(looked))


def window(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    tokens: Annotated[
        int | None,
        typer.Option(
            help="What a head sees.  [default: as many as training read at once]", show_default=False
        ),
    ] = None,
    first: Annotated[
        int, typer.Option(help="Tokens at the beginning that it sees as well, as the Λ-shaped mask does.")
    ] = 0,
    json_output: Json = False,
) -> None:
    """Test a run's cells again with heads that see the last tokens alone: what looking further back costs.

    Nothing is trained; RUN/window.json (window-first1.json with --first 1) holds what was right at every
    position.

    Example: `resrope posgen window runs/quick --tokens 64 --first 1`
    """
    from resrope.cli.output import bar, print_grid
    from resrope.posgen.record import read_records, read_run
    from resrope.posgen.report.window import grid, retest_run, window_file

    (_, settings), records = read_run(run), read_records(run)
    with bar("cells") as progress:
        work = progress.add_task("testing again", total=len(records))
        found = retest_run(run, tokens, lambda cell: progress.advance(work), first=first)
    if len(found) < len(records):
        typer.echo(
            f"{len(records) - len(found)} of {len(records)} cells have no weights here: not tested", err=True
        )
    if json_output:
        typer.echo(window_file(run, first).read_text(encoding="utf-8"), nl=False)
    else:
        print_grid(grid(settings, records, found))
