"""What every command prints with: the console, tables, JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from resrope.page import Grid

if TYPE_CHECKING:
    from rich.progress import Progress


def console() -> Console:
    """Standard output; as wide as its content where it is not a terminal, so that no table is cut."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160)


def bar(unit: str) -> Progress:
    """A bar on standard error, where that is a terminal, with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    terminal = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, left"),
        TimeRemainingColumn(),
        console=terminal,
        disable=not terminal.is_terminal,
    )


def print_grid(grid: Grid, terminal: Console | None = None) -> None:
    """A table with its title above and its note below, on standard output."""
    from rich import box
    from rich.table import Table

    terminal = console() if terminal is None else terminal
    # A title of the table would be broken into lines as short as the table.
    terminal.print(grid.title, style="bold", highlight=False)
    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(grid.header):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in grid.rows:
        table.add_row(*row)
    terminal.print(table)
    terminal.print(grid.note + "\n", style="dim", highlight=False)


def print_json(data: Any) -> None:
    """Indented JSON on standard output."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))
