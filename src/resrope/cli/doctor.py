"""`resrope doctor`: what is wrong with a model's rotary parameters, and what each engine makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from resrope.models.doctor import Diagnosis

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def doctor(
    model: Annotated[
        str,
        typer.Argument(
            help="A config.json, a folder with one, a .gguf file, or `smollm2`.", show_default=False
        ),
    ],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--fix", help="Write the repaired config as this new .json file or folder."),
    ] = None,
) -> None:
    """What is wrong with a model's rotary parameters, and what each engine makes of them.

    Exit code 1 when there is an error among the findings, 2 when the model cannot be read.

    Example: `resrope doctor path/to/model --fix path/to/repaired`
    """
    from resrope.models.doctor import examine, fix

    found = examine(model)
    written = None if out is None else fix(model, out)
    if json_output:
        from resrope.cli.output import print_json

        print_json(_plain(found, written))
    else:
        _print(found, written)
    if found.is_sick:
        raise typer.Exit(1)


def _plain(found: Diagnosis, written: Path | None) -> dict[str, Any]:
    """JSON types."""
    engines = {}
    for name, reading in found.readings.items():
        apart = found.distances.get(name)
        known = apart is not None and math.isfinite(apart.inv_freq)
        engines[name] = {
            "verdict": found.verdict(name),
            "refusal": reading.refusal,
            "ignored": list(reading.ignored),
            "as_written": apart is not None and apart.agrees,
            "inv_freq": apart.inv_freq if known and apart else None,
            "attention_factor": apart.attention_factor if known and apart else None,
        }
    findings = [
        {"severity": f.severity, "code": f.code, "message": f.message, "fix": f.fix} for f in found.findings
    ]
    data = {"source": found.source, "sick": found.is_sick, "engines": engines, "findings": findings}
    return data if written is None else {**data, "written": str(written)}


def _print(found: Diagnosis, written: Path | None) -> None:
    from rich.text import Text

    from resrope.cli.output import console

    out = console()
    if found.readings:
        out.print(_engines(found))
    for finding in found.findings:
        line = Text(f"{finding.severity}: ", style=_STYLES[finding.severity])
        line.append(Text(f"{finding.message} [{finding.code}]", style="default"))
        if finding.fix:
            line.append(Text(" --fix repairs it.", style="green"))
        out.print(line)
    if not found.findings:
        out.print("nothing is wrong", highlight=False)
    if written is not None:
        out.print(f"repaired: {written}", highlight=False, markup=False)


def _engines(found: Diagnosis) -> Table:
    from rich import box
    from rich.table import Table

    kind = "" if found.rope is None else f" ({found.rope.model_type})"
    table = Table(title=f"{found.source}{kind}", box=box.SIMPLE_HEAD)
    table.add_column("engine")
    table.add_column("what it does", overflow="fold")
    for name in found.readings:
        table.add_row(name, found.verdict(name))
    return table
