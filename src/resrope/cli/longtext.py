"""What the commands that measure long contexts share: their options, the methods asked for, the bar."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resrope.cli.values import assignments

if TYPE_CHECKING:
    from resrope.longtext.candidates import Candidate
    from resrope.longtext.passkey import Encode
    from resrope.longtext.perplexity import Encoded, Protocol
    from resrope.longtext.retrieval import Plan, Retrieval
    from resrope.longtext.study import Study
    from resrope.longtext.subject import Subject

Model = Annotated[
    str,
    typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or `smollm2`.", show_default=False),
]
METHOD_HELP = (
    "own (the model as it is), rope, yarn, …, resonance-yarn; again or with commas for several; "
    "yarn:factor=8 for parameters of its own."
)
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help=f"{METHOD_HELP}  [default: own]", show_default=False),
]
Target = Annotated[
    int | None, typer.Option(help="Tokens the methods are made for.  [default: the longest length]")
]
Factor = Annotated[
    float | None,
    typer.Option(
        help="Of every method but dynamic NTK.  [default: tokens they are made for / trained length]"
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Another parameter of every method: beta_fast=16.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Drop the model's own scaling.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16.  [default: float32 on a CPU, else bfloat16]")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.  [default: the fastest there is]")]
Attn = Annotated[
    str | None,
    typer.Option(
        help="transformers' attention: eager, sdpa, flash_attention_2.  [default: the fastest that is exact]"
    ),
]
Chunk = Annotated[int, typer.Option(help="Tokens read at a time: speed and memory, not the numbers.")]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help=".txt, .jsonl(.zst), .parquet, a folder of them, hub:owner/name, govreport, proof-pile, pg19; "
        "again for several.",
        show_default=False,
    ),
]
Column = Annotated[str | None, typer.Option(help="Where the text of a row is.  [default: text, input, …]")]
Documents = Annotated[
    int | None, typer.Option(help="Take a random sample of so many documents.  [default: all]")
]
Seed = Annotated[int, typer.Option(help="Of the random sample.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def chosen(
    methods: Sequence[str] | None, factor: float | None, pairs: Sequence[str] | None, replace: bool
) -> list[Candidate]:
    """The methods asked for. Raises ValueError for what none of them can be."""
    from resrope.longtext.candidates import candidates

    given = assignments(pairs or [])
    if factor is not None and "factor" in given:
        raise ValueError(f"factor is given twice: {factor} and --set factor={given['factor']}")
    given = given if factor is None else {**given, "factor": factor}
    return candidates(labels(methods or []), given, replace_scaling=replace)


def labels(given: Sequence[str]) -> list[str]:
    """Methods given one by one, with commas, or both; a comma before name=value goes on with the last one.

    >>> labels(["rope,yarn:factor=8,beta_fast=16", "ntk"])
    ['rope', 'yarn:factor=8,beta_fast=16', 'ntk']
    """
    found: list[str] = []
    for part in (p.strip() for text in given for p in text.split(",")):
        goes_on = "=" in part and ":" not in part and found and ":" in found[-1]
        if goes_on:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found


def pictures_first() -> None:
    """Say that matplotlib is missing before hours of work, not after."""
    from resrope.pictures import figure

    figure(1, 1)


def quiet_libraries() -> None:
    """No bars, notes and retries of the libraries between our lines; errors still raise."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def tell(what: str) -> None:
    """A line on standard error, where that is a terminal, before what has no measure of its progress."""
    if sys.stderr.isatty():
        typer.echo(f"{what} …", err=True)


def lengths_of(text: str) -> tuple[int, ...]:
    """``--lengths 512,1024`` in rising order."""
    from resrope.cli.values import numbers

    return tuple(sorted(set(numbers("--lengths", text))))


def write_files(out: Path, files: dict[str, Any]) -> None:
    """Every file whole or not at all, in the folder ``out``."""
    from resrope.files import atomic_write

    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        atomic_write(out / name, content)


def depths_of(text: str) -> tuple[float, ...]:
    """A number of depths from 0 to 1, or the depths themselves in rising order."""
    count = int(text) if text.isascii() and text.isdigit() else None
    if count is not None and 2 <= count <= 1000:
        return tuple(i / (count - 1) for i in range(count))
    try:
        given = () if count is not None else tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        given = ()
    if not given:
        raise ValueError(
            f"--depths takes how many (2 to 1000), or depths with a comma or a point: 0,0.25,1; got {text!r}"
        )
    return given


def encoded(
    model: str,
    sources: Sequence[str] | None,
    column: str | None,
    documents: int | None,
    seed: int,
    *,
    lengths: tuple[int, ...] | None = None,
    reaching: int | None = None,
) -> tuple[list[Encoded], Any]:
    """The texts as tokens, and the tokenizer that made them.

    lengths: that one of them must be long enough for. reaching: leave out those with fewer tokens, before
    ``documents`` of them are drawn.
    """
    from resrope.longtext.perplexity import encode, long_enough
    from resrope.longtext.subject import tokenizer_of
    from resrope.longtext.texts import read_texts, sample

    if not sources:
        raise ValueError("--text must be given: a file, a folder or a data set")
    texts = read_texts(sources, column=column)
    if documents is not None and reaching is None:
        texts = sample(texts, documents, seed)
    tell("reading texts")
    tokenizer = tokenizer_of(model)
    encoded = encode(tokenizer, texts)
    if reaching is not None:
        encoded = long_enough(encoded, reaching)
        encoded = encoded if documents is None else sample(encoded, documents, seed)
    if lengths is not None:
        long_enough(encoded, lengths[-1], drawn=documents is not None)
    return encoded, tokenizer


def studied(
    subject: Subject, asked: Sequence[Candidate], texts: Sequence[Encoded], protocol: Protocol, out: Path
) -> Study:
    """Measure with a bar; what is finished is kept in ``out``."""
    from resrope.cli.output import bar
    from resrope.longtext.store import Store
    from resrope.longtext.study import study, total_work

    total = total_work(subject, asked, texts, protocol)
    with bar("tokens") as progress:
        task = progress.add_task("", total=total)
        return study(
            subject,
            asked,
            texts,
            protocol,
            Store(out / "losses"),
            progress=lambda tokens: progress.advance(task, tokens),
            announce=lambda label: progress.update(task, description=label),
            command=shlex.join(["resrope", *sys.argv[1:]]),
        )


def retrieved(
    subject: Subject,
    asked: Sequence[Candidate],
    plan: Plan,
    encode: Encode,
    out: Path,
    *,
    chunk: int,
    haystack: Sequence[str] | None = None,
) -> Retrieval:
    """Hide passkeys and ask for them, with a bar; every answer is kept in ``out``."""
    from resrope.cli.output import bar
    from resrope.longtext.passkey import FILLER
    from resrope.longtext.retrieval import measure
    from resrope.longtext.store import Records

    with bar("tokens") as progress:
        task = progress.add_task("passkeys", total=plan.tokens * len(asked))
        return measure(
            subject,
            asked,
            plan,
            encode,
            Records(out / "answers"),
            haystack=haystack or FILLER,
            chunk=chunk,
            progress=lambda tokens: progress.advance(task, tokens),
        )
