"""Options that several commands of `resrope posgen` share."""

from __future__ import annotations

from typing import Annotated

import typer

Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="recursive, cot, semi-recursive; again or with commas for several."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a field of the preset: --set epochs=3; may be given again."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "--embedding",
        help="rope, yarn, linear, …, resonance-yarn, none, alibi, t5, fire, …, or module:Class of your own; "
        "again or with commas for several.",
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated: 0,1,2.  [default: the preset's]")]
Jobs = Annotated[int | None, typer.Option(help="Parallel processes.  [default: one a processor]")]
Together = Annotated[
    int | None,
    typer.Option(help="Train so many cells of a task as one model: for a GPU, which one cell leaves idle."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.  [default: cpu]")]
Settled = Annotated[
    bool,
    typer.Option(
        "--stop-when-settled",
        help="Seed after seed; a method with and without Resonance takes no more seeds once the interval of "
        "the effect leaves 0 out.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Run cells on a Ray cluster instead: auto, host:port, ray://host:port, or local for one here."
    ),
]
