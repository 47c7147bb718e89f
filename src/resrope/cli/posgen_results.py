"""`resrope posgen submit`, `validate` and `board`: results as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resrope.cli.posgen_options import Json


def submit(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    title: Annotated[str, typer.Option(help="Of the result, 80 characters at most.")],
    by: Annotated[str, typer.Option(help="Who made it.")],
    link: Annotated[str | None, typer.Option(help="https://… to a paper or to code.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write.  [default: RUN/result.json]")] = None,
) -> None:
    """Put a run's finished cells into one file that others can check: what was right at every position.

    Example: `resrope posgen submit runs/mine --title "My embedding" --by "A. Author"`
    """
    from resrope.posgen.report.result import result_of, write_result

    file = run / "result.json" if out is None else out
    result = result_of(run, title=title, by=by, link=link)
    write_result(result, file)
    typer.echo(f"{file}: {len(result['cells'])} cells")


def validate(
    places: Annotated[list[Path], typer.Argument(help="Files, or folders with result.json somewhere below.")],
    json_output: Json = False,
) -> None:
    """Check results against their JSON Schema and their own settings; the first mistake is said, exit code 2.

    Example: `resrope posgen validate runs/mine/result.json`
    """
    from resrope.cli.output import print_json
    from resrope.posgen.report.result import results_in

    found = [
        {"file": str(file), "title": r["title"], "cells": len(r["cells"])} for file, r in results_in(places)
    ]
    if json_output:
        print_json(found)
        return
    for one in found:
        typer.echo(f"{one['file']}: {one['title']}, {one['cells']} cells, valid")


def board(
    places: Annotated[list[Path], typer.Argument(help="Files, or folders with result.json somewhere below.")],
    out: Annotated[Path, typer.Option(help="The page to write (.html or .md).")] = Path("leaderboard.html"),
) -> None:
    """Write the leaderboard: all results, setting by setting, beside what rules alone score.

    Example: `resrope posgen board results --out leaderboard.html`
    """
    from resrope.files import atomic_write
    from resrope.posgen.report.board import board as page_of
    from resrope.posgen.report.result import results_in

    if out.suffix not in (".html", ".md"):
        raise ValueError(f"--out must end in .html or .md, got {out}")
    page = page_of(result for _, result in results_in(places))
    atomic_write(out, page.html({}) if out.suffix == ".html" else page.markdown())
    typer.echo(f"{out}: {len(page.grids)} tables")
