"""What every command prints with: the console, tables, JSON."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console


def console() -> Console:
    """Standard output; as wide as its content where it is not a terminal, so that no table is cut."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160)


def print_json(data: Any) -> None:
    """Indented JSON on standard output."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))
