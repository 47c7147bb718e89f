"""`resrope evaluate`: tasks of lm-evaluation-harness, for one method or several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from resrope.cli import longtext
from resrope.cli.values import names

Limit = Annotated[int | None, typer.Option(min=1, help="Questions per task.  [default: all]")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts at a time.")]
Out = Annotated[Path, typer.Option(help="Folder of what is finished already, method by method.")]
ChatTemplate = Annotated[
    bool, typer.Option("--apply-chat-template", help="Ask in the chat template of the model's tokenizer.")
]


def evaluate(
    model: longtext.Model,
    tasks: Annotated[
        list[str],
        typer.Option("--tasks", help="Names of the harness, with commas or again.", show_default=False),
    ],
    methods: longtext.Methods = None,
    factor: longtext.Factor = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of prompt and answer, which the methods serve.  [default: the most that one serves]",
        ),
    ] = None,
    parameters: longtext.Set = None,
    replace: longtext.Replace = False,
    limit: Limit = None,
    batch_size: BatchSize = 1,
    apply_chat_template: ChatTemplate = False,
    include_path: Annotated[
        Path | None, typer.Option(help="A folder with more tasks.", exists=True, file_okay=False)
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(
            help="""JSON for the tasks: '{"max_seq_lengths": [8192]}' for RULER.""", show_default=False
        ),
    ] = None,
    dtype: longtext.Dtype = None,
    device: longtext.Device = None,
    attn: longtext.Attn = None,
    out: Out = Path("runs/evaluate"),
    json_output: longtext.Json = False,
) -> None:
    """Run tasks of lm-evaluation-harness on a model, with every method in turn; nothing is trained.

    A method that is finished is kept in OUT and not asked again. Prompts that do not fit into the length are
    an error, not cut. Tasks that load their data from the hub need a network.

    Example: `resrope evaluate smollm2 --tasks niah_single_1 --method own --method yarn --length 16384
    --metadata '{"max_seq_lengths": [16384]}'`
    """
    longtext.quiet_libraries()
    from resrope.longtext.candidates import placed
    from resrope.longtext.harness import evaluate as run
    from resrope.longtext.store import Records
    from resrope.longtext.subject import open_subject

    asked = longtext.chosen(methods, factor, parameters, replace)
    wanted, more = names("--tasks", tasks), _json_object(metadata)
    subject = open_subject(model, dtype=dtype, device=device, attn=attn)
    served = length or max(placed(one, subject.rope, None).length for one in asked)
    found = list(
        run(
            subject,
            asked,
            wanted,
            length=served,
            limit=limit,
            batch_size=batch_size,
            apply_chat_template=apply_chat_template,
            include_path=include_path,
            metadata=more,
            records=Records(out / "scores"),
        )
    )
    if json_output:
        from resrope.cli.output import print_json

        methods_found = {one.method: {"scores": one.scores, "seconds": one.seconds} for one in found}
        print_json({"model": model, "length": served, "limit": limit, "methods": methods_found})
        return
    print_scores({one.method: _columns(one.scores) for one in found}, f"{model}, {served} tokens")


def print_scores(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A table of methods × columns; a column that a method lacks stays empty."""
    from rich import box
    from rich.table import Table

    from resrope.cli.output import console

    typer.echo(title)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method")
    for column in columns:
        table.add_column(column, justify="right")
    for method, row in rows.items():
        table.add_row(method, *(f"{row[c]:.4g}" if c in row else "" for c in columns))
    console().print(table)


def _columns(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{task} {metric}": value for task, row in scores.items() for metric, value in row.items()}


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"--metadata takes JSON, got {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"--metadata takes a JSON object, got {text!r}")
    return found
