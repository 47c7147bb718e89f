"""`resrope perplexity`: by length and by position, for several methods on the same texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resrope.cli import longtext

if TYPE_CHECKING:
    from resrope.longtext.study import Study


def perplexity(
    model: longtext.Model,
    texts: longtext.Texts = None,
    methods: longtext.Methods = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Tokens, with commas.  [default: 512, 1024, … to 4 × the length that the model serves]"
        ),
    ] = None,
    target: longtext.Target = None,
    factor: longtext.Factor = None,
    parameters: longtext.Set = None,
    replace: longtext.Replace = False,
    block: Annotated[int, typer.Option(help="Tokens averaged in the curve by position.")] = 1024,
    window: Annotated[
        int | None,
        typer.Option(help="Tokens of a sliding window.  [default: whole prefixes]"),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between two sliding windows.", show_default=False)
    ] = None,
    column: longtext.Column = None,
    documents: longtext.Documents = None,
    seed: longtext.Seed = 0,
    dtype: longtext.Dtype = None,
    device: longtext.Device = None,
    attn: longtext.Attn = None,
    chunk: longtext.Chunk = 512,
    out: Annotated[Path, typer.Option(help="Folder of the report and of what is finished already.")] = Path(
        "runs/perplexity"
    ),
    json_output: longtext.Json = False,
) -> None:
    """Perplexity of texts at growing lengths and by position, method by method; nothing is trained.

    A text is read once for each method, in chunks: the losses of its first 512 tokens are the same whatever
    follows. (Dynamic NTK is read once for each length beyond the trained one, with the base of that length.)
    Every finished pair of method and text is kept in OUT: stopped and started again, it goes on.

    Example: `resrope perplexity smollm2 --method rope,yarn --text emma.txt --lengths 8192,16384`

    Example: `resrope perplexity path/to/model --text govreport --documents 50 --window 4096 --stride 256`
    """
    asked = longtext.chosen(methods, factor, parameters, replace)
    longtext.pictures_first()
    longtext.quiet_libraries()
    given = None if lengths is None else longtext.lengths_of(lengths)
    from resrope.longtext.perplexity import Protocol, usual_lengths
    from resrope.longtext.subject import open_subject
    from resrope.longtext.windows import SHORTEST

    protocol = partial(Protocol, block=block, window=window, stride=stride, target=target, chunk=chunk)
    protocol(lengths=given or (SHORTEST,))  # what is wrong with it is said before anything is loaded
    encoded, tokenizer = longtext.encoded(model, texts, column, documents, seed, lengths=given)
    longtext.tell(f"loading {model}")
    subject = open_subject(model, dtype=dtype, device=device, attn=attn, tokenizer=tokenizer)
    reach = given or tuple(usual_lengths(encoded, subject.native))
    found = longtext.studied(subject, asked, encoded, protocol(lengths=reach), out)
    _report(found, out, json_output)


def _report(found: Study, out: Path, json_output: bool) -> None:
    from resrope.cli.output import console, print_grid, print_json
    from resrope.longtext.report import grids, report_files

    longtext.write_files(out, report_files(found))
    if json_output:
        print_json(found.to_dict())
        return
    for grid in grids(found, intervals=False):
        print_grid(grid)
    console().print(f"report: {out / 'report.html'}", highlight=False)
