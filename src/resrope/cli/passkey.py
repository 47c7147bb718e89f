"""`resrope passkey`: a number hidden in a long text, at every depth and length, for one method or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resrope.cli import longtext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resrope.longtext.retrieval import Retrieval
    from resrope.page import Grid

_PICTURES = (".png", ".svg", ".pdf")


def passkey(
    model: longtext.Model,
    methods: longtext.Methods = None,
    lengths: Annotated[
        str, typer.Option(help="Tokens of text, question and answer together, with commas.")
    ] = "2048,4096,8192",
    depths: Annotated[
        str, typer.Option(help="How many, evenly from 0 to 1, or the depths themselves: 0,0.25,1.")
    ] = "5",
    trials: Annotated[int, typer.Option(help="Keys at every depth of every length.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the keys.")] = 0,
    target: longtext.Target = None,
    factor: longtext.Factor = None,
    parameters: longtext.Set = None,
    replace: longtext.Replace = False,
    haystack: Annotated[
        str | None,
        typer.Option(
            help="Hide the keys in the first text of this file or data set.  [default: five plain sentences]",
            show_default=False,
        ),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the tokenizer's chat template.")] = False,
    dtype: longtext.Dtype = None,
    device: longtext.Device = None,
    attn: longtext.Attn = None,
    chunk: longtext.Chunk = 512,
    out: Annotated[Path, typer.Option(help="Folder of the result and of the answers so far.")] = Path(
        "runs/passkey"
    ),
    json_output: longtext.Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the maps (.png, .svg, .pdf).")] = None,
) -> None:
    """Hide a five-digit number in a long text, ask for it at the end, and count the right answers.

    The text is one and the same few sentences again and again, or yours. Answers are greedy, and their first
    number counts. Every answer is kept in OUT: stopped and started again, it goes on.

    Example: `resrope passkey smollm2 --method own,yarn,resonance-yarn --lengths 8192,16384 --plot map.png`
    """
    from resrope.longtext.retrieval import Plan

    asked = longtext.chosen(methods, factor, parameters, replace)
    reach = longtext.lengths_of(lengths)
    plan = Plan(lengths=reach, depths=longtext.depths_of(depths), trials=trials, seed=seed, target=target)
    _check_picture(plot)
    longtext.quiet_libraries()
    sentences = _sentences(haystack)
    from resrope.longtext.passkey import check_room, encoder
    from resrope.longtext.subject import open_subject, tokenizer_of

    tokenizer = tokenizer_of(model)
    encode = encoder(tokenizer, chat=chat)
    check_room(encode, reach[0], sentences)
    longtext.tell(f"loading {model}")
    subject = open_subject(model, dtype=dtype, device=device, attn=attn, tokenizer=tokenizer)
    found = longtext.retrieved(subject, asked, plan, encode, out, chunk=chunk, haystack=sentences)
    longtext.write_files(out, {"passkey.json": json.dumps(found.to_dict(), indent=1) + "\n"})
    _report(found, plot, json_output)


def _check_picture(plot: Path | None) -> None:
    """Say what is wrong with it before hours of work, not after."""
    if plot is None:
        return
    if plot.suffix not in _PICTURES or not plot.parent.is_dir():
        raise ValueError(f"--plot takes a {', '.join(_PICTURES)} file in a folder that exists, got {plot}")
    longtext.pictures_first()


def _sentences(haystack: str | None) -> Sequence[str]:
    from resrope.longtext.passkey import FILLER, sentences
    from resrope.longtext.texts import read_texts

    return FILLER if haystack is None else sentences(read_texts([haystack])[0].text)


def _report(found: Retrieval, plot: Path | None, json_output: bool) -> None:
    from resrope.cli.output import print_grid, print_json

    if plot is not None:
        from resrope.longtext.heatmap import draw

        draw(found, plot)
    if json_output:
        print_json(found.to_dict())
        return
    print_grid(_grid(found))
    if plot is not None:
        typer.echo(f"picture: {plot}")


def _grid(found: Retrieval) -> Grid:
    """Methods × lengths: the share of all depths, and below it that of every depth."""
    from resrope.page import Grid
    from resrope.pictures import title

    plan, native = found.plan, found.native_length
    rows = []
    for method, cells in found.methods.items():
        rows.append([title(method), *(f"{100 * found.accuracy(method, n):.0f}" for n in plan.lengths)])
        for depth in plan.depths:
            shares = [f"{100 * cell.correct / cell.trials:.0f}" for cell in cells if cell.depth == depth]
            rows.append([f"  at {100 * depth:.0f} %", *shares])
    beyond = [native is not None and length > native for length in plan.lengths]
    star = f" * beyond the {native} tokens of the model." if any(beyond) else ""
    return Grid(
        f"{found.model}: % of the keys found",
        ["", *(f"{n}{'*' * far}" for n, far in zip(plan.lengths, beyond, strict=True))],
        rows,
        f"Keys at every depth: {plan.trials}; methods made for {plan.serves} tokens.{star}",
    )
