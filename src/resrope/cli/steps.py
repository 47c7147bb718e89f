"""The progress of a training: a bar with loss, speed and time left, or a line a minute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from resrope.finetune.trainer import Tick

# Seconds between two lines where standard error is no terminal.
_LINES = 60.0


@contextmanager
def steps(total: int) -> Iterator[Callable[[Tick], None]]:
    """A bar with loss, tokens a second and time left; a line a minute where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield _lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}, {task.fields[speed]} tokens/s, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=3600) as bar:
        task = bar.add_task("steps", total=total, loss="–", speed="–")

        def tell(tick: Tick) -> None:
            bar.update(task, completed=tick.step, loss=f"{tick.loss:.4f}", speed=f"{tick.speed:,.0f}")

        yield tell


def _lines(total: int) -> Callable[[Tick], None]:
    last = -_LINES

    def tell(tick: Tick) -> None:
        nonlocal last
        if tick.seconds - last < _LINES and tick.step < total:
            return
        last = tick.seconds
        left = (total - tick.step) * tick.seconds / max(1, tick.step - tick.first)
        where = f"step {tick.step}/{total}  loss {tick.loss:.4f}  {tick.speed:,.0f} tokens/s"
        typer.echo(f"{where}  {timedelta(seconds=round(left))} left", err=True)

    return tell
