"""`resrope extend`: a model with another table of rotary frequencies, written for one engine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resrope.cli.values import assignments, names

if TYPE_CHECKING:
    from resrope.export.report import Report

_ORIGINAL = "original_max_position_embeddings"
# Seconds before a bar appears: most folders are hard links and done by then.
_PATIENCE = 2.0


def extend(
    model: Annotated[
        str, typer.Argument(help="A Hugging Face folder, a .gguf file, or `smollm2`.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(help="The folder to write, a .gguf file for engine gguf.", show_default=False)
    ],
    method_name: Annotated[
        str, typer.Option("--method", help="yarn, ntk, llama3, …, resonance-yarn.", show_default=False)
    ],
    factor: Annotated[float | None, typer.Option(help="Target / original length.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens to serve.  [default: factor · original length]")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Who shall load it: transformers, vllm, sglang, mlx, gguf (llama.cpp).")
    ] = "transformers",
    original_length: Annotated[
        int | None, typer.Option(help="Tokens of training.  [default: what the config says]")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="Another parameter of the method: beta_fast=2.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layer types to change.  [default: all but those with a sliding window]"),
    ] = None,
    fold_attention: Annotated[
        bool | None,
        typer.Option(
            "--fold-attention/--no-fold-attention",
            help="Multiply the attention factor into the weights.  [default: where the engine ignores it]",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Drop the model's own scaling.")] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Hard links instead of copies of weights that do not change: no space, but whoever writes "
            "into OUT's files writes into MODEL's.",
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model with another method's table, so that the stock engine uses it; nothing is trained.

    The engine's reading of the new config is compared with the table first: what it would ignore is
    refused, with the reason.

    Example: `resrope extend llama-2-7b llama-2-7b-32k --method resonance-yarn --factor 8`

    Example: `resrope extend smollm2 smollm2-32k.gguf --method yarn --factor 4 --engine gguf`
    """
    given = assignments(parameters or [])
    for name, value in (("factor", factor), (_ORIGINAL, original_length)):
        if value is not None and name in given:
            raise ValueError(f"{name} is given twice: {value} and --set {name}={given[name]}")
        given = given if value is None else {**given, name: value}
    _check_no_keywords(given)
    from resrope.export.extend import extend as write

    with _bar(json_output) as progress:
        report = write(
            model,
            out,
            method_name,
            engine=engine,
            length=length,
            layers=None if layers is None else tuple(names("--layers", layers)),
            replace_scaling=replace,
            fold=fold_attention,
            link=link,
            progress=progress,
            **given,
        )
    if json_output:
        from resrope.cli.output import print_json

        print_json(report.to_dict())
    else:
        _print(report)


def _check_no_keywords(given: dict[str, object]) -> None:
    """--set is for the method; what has an option of its own must not slip in beside it."""
    options = ("engine", "length", "layers", "replace_scaling", "fold", "link", "progress")
    for name in (*options, "source", "out", "name"):
        if name in given:
            raise ValueError(f"--set takes parameters of the method, {name} is none")


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback for (bytes done, bytes in all) that draws a bar once the work has taken a while."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from resrope.cli.output import console

    columns = (
        TextColumn("writing"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console(), transient=True, disable=quiet)
    work = bar.add_task("writing", total=None)
    start = time.monotonic()

    def tell(done: int, total: int) -> None:
        if not bar.live.is_started and time.monotonic() - start > _PATIENCE:
            bar.start()
        bar.update(work, completed=done, total=total)

    try:
        yield tell
    finally:
        # One that never started would print an empty line.
        if bar.live.is_started:
            bar.stop()


def _print(report: Report) -> None:
    from rich import box
    from rich.table import Table

    from resrope.cli.output import console

    table = Table(title=_title(report), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("layers")
    for column in ("features", "changed", "longest wavelength", "attention factor"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in report.layers:
        table.add_row(
            row.layer,
            str(row.features),
            str(row.changed),
            f"{row.longest[0]:.2f} → {row.longest[1]:.2f}",
            f"{row.attention_factor[0]:.6g} → {row.attention_factor[1]:.6g}",
            "resonant" if row.resonant else "",
        )
    out = console()
    out.print(table)
    for line in _lines(report):
        out.print(line, highlight=False, soft_wrap=True, markup=False)


def _title(report: Report) -> str:
    trained = "" if report.original_length is None else f"trained on {report.original_length}, "
    return f"{report.method}, {trained}now {report.length} tokens"


def _lines(report: Report) -> Iterator[str]:
    spelling = "" if report.engine == "gguf" else f", spelled as {report.spelling}"
    folded = ", the attention factor in the weights" if report.folded else ""
    files = f"{len(report.files)} file{'s' * (len(report.files) != 1)}"
    yield f"{report.out}: {files} for {report.engine}{spelling}{folded}, {report.seconds:.1f} s"
    if not any(row.changed for row in report.layers):
        yield "note: the model has these frequencies already; only how they are spelled is new"
    if report.linked:
        yield f"hard links to the source: {', '.join(report.linked)}"
    if report.left_out:
        yield f"left out, weights in other formats: {', '.join(report.left_out)}"
    if report.caveat is not None:
        yield f"note: {report.caveat}"
    yield f"check it: resrope verify {shlex.quote(report.out)}"
    yield f"load it:  {report.load}"
