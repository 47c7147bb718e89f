"""`resrope verify`: what every engine would read from a checkpoint, against what it should."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from resrope.models.logits import LogitDifference
    from resrope.models.verify import Check, Verification


def verify(
    checkpoint: Annotated[
        Path, typer.Argument(help="A Hugging Face folder or a .gguf file.", show_default=False)
    ],
    logits: Annotated[
        bool,
        typer.Option(
            "--logits/--no-logits",
            help="Also run it, in the engines that are installed here (loads the whole model in float32).",
        ),
    ] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read a checkpoint back the way each engine would, and print how far that is from its table.

    The table is the one it was written with where `resrope extend` wrote it, else the one its config
    describes. Frequencies and factors are relative differences; logits those to the same weights with
    exact phases, over 64 tokens. Exit code 1 when the engine it was written for (any engine, where it
    does not say) would rotate otherwise, 2 when it cannot be read.

    Example: `resrope verify smollm2-32k`
    """
    from resrope.models.verify import verify as read_back

    found = read_back(checkpoint)
    measured = _run(checkpoint) if logits else ()
    if json_output:
        from resrope.cli.output import print_json

        print_json(_plain(found, measured))
    else:
        _print(found, measured)
    if not found.passed:
        raise typer.Exit(1)


def _run(checkpoint: Path) -> tuple[LogitDifference, ...]:
    from rich.console import Console

    from resrope.models.logits import logit_differences

    with Console(stderr=True).status("running it in the engines that are installed …"):
        return logit_differences(checkpoint)


def _plain(found: Verification, measured: tuple[LogitDifference, ...]) -> dict[str, Any]:
    """JSON types."""
    return {
        "source": found.source,
        "method": found.method,
        "written_for": found.written_for,
        "length": found.length,
        "passed": found.passed,
        "engines": {c.engine: _plain_check(c) for c in found.checks},
        "logits": {m.engine: {"largest": m.largest, "kl": m.kl} for m in measured},
    }


def _plain_check(check: Check) -> dict[str, Any]:
    known = check.distance is not None and math.isfinite(check.distance.inv_freq)
    return {
        "inv_freq": check.distance.inv_freq if known and check.distance else None,
        "attention_factor": check.distance.attention_factor if known and check.distance else None,
        "objection": check.objection,
    }


def _print(found: Verification, measured: tuple[LogitDifference, ...]) -> None:
    from rich import box
    from rich.table import Table

    from resrope.cli.output import console

    what = found.method or "the table its config describes"
    table = Table(title=f"{found.source}: {what}, {found.length} tokens", box=box.SIMPLE_HEAD)
    table.add_column("engine")
    for column in ("frequency", "factor"):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    for check in found.checks:
        numbers = ("", "") if check.distance is None else _numbers(check)
        table.add_row(check.engine, *numbers, check.objection or "as written")
    out = console()
    out.print(table)
    for one in measured:
        out.print(
            f"{one.engine}, run here: logits differ by at most {one.largest:.1e}, KL {one.kl:.1e} nats",
            highlight=False,
        )
    meant = f"for {found.written_for}" if found.written_for else "for at least one engine"
    out.print(f"{'right' if found.passed else 'WRONG'} {meant}", highlight=False)


def _numbers(check: Check) -> tuple[str, str]:
    assert check.distance is not None
    return f"{check.distance.inv_freq:.1e}", f"{check.distance.attention_factor:.1e}"
