"""`resrope verify`: what every engine would read from a checkpoint, against what it should."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from resrope.models.logits import LogitDifference
    from resrope.models.verify import Check, Verification


def verify(
    checkpoint: Annotated[
        str, typer.Argument(help="A Hugging Face folder, a .gguf file, or `smollm2`.", show_default=False)
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
    describes. Frequencies and factors are relative differences. Logits, over 64 tokens, are compared with
    those of the same weights in transformers with that table installed by hand and exact phases. They cannot
    show what both read from the config for attention itself (mscale_all_dim).

    Exit code 1 when the engine it was written for (any engine, where it does not say) would rotate
    otherwise, or when an engine whose reading is right gives other logits: KL above 0.0001 nats (llama.cpp:
    0.001 with float16 weights; no verdict with bfloat16 or quantised ones, where its rounding is as large).
    Exit code 2 when it cannot be read or run.

    Example: `resrope verify smollm2-32k`
    """
    from resrope.models.verify import verify as read_back

    found = read_back(checkpoint)
    if not json_output:
        _print_readings(found)
    run = _run(checkpoint, found) if logits else _Run()
    if json_output:
        from resrope.cli.output import print_json

        print_json(_plain(found, run))
    else:
        _print_logits(found, run)
    if run.error is not None:
        raise run.error
    if not _right(found, run):
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What running it gave. not_run: why nothing was tried. error: why what was tried failed."""

    measured: tuple[LogitDifference, ...] = ()
    not_run: str | None = None
    error: ValueError | None = None


def _run(checkpoint: str, found: Verification) -> _Run:
    from rich.console import Console

    from resrope.models.logits import TOKENS, logit_differences, why_not_run
    from resrope.models.verify import local_path

    path = local_path(checkpoint)
    why = why_not_run(path)
    if why is not None:
        return _Run(not_run=why)
    try:
        with Console(stderr=True).status("running it in the engines that are installed …"):
            return _Run(measured=logit_differences(path, found.specs_at(TOKENS)))
    except ValueError as error:
        return _Run(error=error)


def _right(found: Verification, run: _Run) -> bool:
    return found.passed and not found.contradicted(run.measured)


def _plain(found: Verification, run: _Run) -> dict[str, Any]:
    """JSON types; passed is null where the run failed."""
    return {
        "source": found.source,
        "method": found.method,
        "written_for": found.written_for,
        "length": found.length,
        "passed": None if run.error is not None else _right(found, run),
        "engines": {c.engine: _plain_check(c) for c in found.checks},
        "logits": {m.engine: _plain_logits(m) for m in run.measured},
        "logits_not_run": run.not_run if run.error is None else str(run.error),
    }


def _plain_logits(one: LogitDifference) -> dict[str, Any]:
    numbers = {"largest": one.largest, "kl": one.kl, "limit": one.limit}
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in numbers.items()}
    return {**finite, "wrong": one.wrong}


def _plain_check(check: Check) -> dict[str, Any]:
    known = check.distance is not None and math.isfinite(check.distance.inv_freq)
    return {
        "inv_freq": check.distance.inv_freq if known and check.distance else None,
        "attention_factor": check.distance.attention_factor if known and check.distance else None,
        "objection": check.objection,
    }


def _print_readings(found: Verification) -> None:
    from rich import box
    from rich.table import Table

    from resrope.cli.output import console

    what = found.method or "the table its config describes"
    # A title of the table would be broken into lines as short as the table.
    typer.echo(f"{found.source}: {what}, {found.length} tokens")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("engine")
    for column in ("frequency", "factor"):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    for check in found.checks:
        numbers = ("", "") if check.distance is None else _numbers(check)
        table.add_row(check.engine, *numbers, check.objection or "as written")
    console().print(table)


def _print_logits(found: Verification, run: _Run) -> None:
    if run.not_run is not None:
        typer.echo(f"{run.not_run}: logits were not run")
    for one in run.measured:
        typer.echo(
            f"{one.engine}, run here: logits differ by at most {one.largest:.1e}, "
            f"KL {one.kl:.1e} nats, {_verdict(found, one)}"
        )
    if run.error is None:
        typer.echo(_conclusion(found, run))


def _verdict(found: Verification, one: LogitDifference) -> str:
    if one.limit is None:
        return f"no verdict: with these weights {one.engine}'s own rounding is as large"
    if not one.wrong:
        return f"right: at most {one.limit:g}"
    as_read = "" if found.contradicted([one]) else ", as its row says"
    return f"WRONG: above {one.limit:g}{as_read}"


def _conclusion(found: Verification, run: _Run) -> str:
    meant = f"for {found.written_for}" if found.written_for else "for at least one engine"
    if not found.passed:
        return f"WRONG {'for every engine' if found.written_for is None else meant}"
    others = found.contradicted(run.measured)
    return f"WRONG as run by {', '.join(others)}" if others else f"right {meant}"


def _numbers(check: Check) -> tuple[str, str]:
    assert check.distance is not None
    return f"{check.distance.inv_freq:.1e}", f"{check.distance.attention_factor:.1e}"
