"""`resrope compare`: is a method worth it, and what does it cost on short prompts?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resrope.cli import longtext

if TYPE_CHECKING:
    from resrope.longtext.candidates import Candidate
    from resrope.longtext.comparison import Comparison
    from resrope.longtext.subject import Subject


def compare(
    model: longtext.Model,
    target: Annotated[int, typer.Option(help="Tokens that you want to reach.", show_default=False)],
    texts: longtext.Texts = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help=f"{longtext.METHOD_HELP}  [default: yarn,resonance-yarn]", show_default=False
        ),
    ] = None,
    factor: longtext.Factor = None,
    parameters: longtext.Set = None,
    replace: longtext.Replace = False,
    depths: Annotated[
        str,
        typer.Option(help="Where passkeys are hidden, or how many places; none: leave them out."),
    ] = "0.1,0.5,0.9",
    trials: Annotated[int | None, typer.Option(help="Passkeys at every depth.  [default: 1]")] = None,
    leval: Annotated[
        Path | None, typer.Option(help="A folder with L-Eval's files, to ask its questions too.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of them, so many per task.")] = None,
    column: longtext.Column = None,
    documents: longtext.Documents = None,
    seed: longtext.Seed = 0,
    dtype: longtext.Dtype = None,
    device: longtext.Device = None,
    attn: longtext.Attn = None,
    chunk: longtext.Chunk = 512,
    out: Annotated[Path, typer.Option(help="Folder of the report and of what is finished already.")] = Path(
        "runs/compare"
    ),
    json_output: longtext.Json = False,
) -> None:
    """Measure methods against the unchanged model, inside its context and beyond, and give a verdict.

    Perplexity by length and by position of the texts that reach TARGET, and passkeys hidden in half that
    context and in TARGET tokens. The method `own`, the model as it is, is always among them.

    Example: `resrope compare smollm2 --target 16384 --method yarn,resonance-yarn --text report.txt`
    """
    from resrope.longtext.candidates import OWN

    given = longtext.labels(methods or ["yarn", "resonance-yarn"])
    if given == [OWN]:
        raise ValueError("--method must name a method to compare with the model as it is, got own alone")
    asked = longtext.chosen([OWN, *(m for m in given if m != OWN)], factor, parameters, replace)
    hidden = [] if depths == "none" else longtext.depths_of(depths)
    if limit is not None and leval is None:
        raise ValueError("--limit is of L-Eval's questions, which --leval asks")
    if trials is not None and not hidden:
        raise ValueError("--trials is of passkeys, which --depths none leaves out")
    longtext.pictures_first()
    longtext.quiet_libraries()
    encoded, tokenizer = longtext.encoded(model, texts, column, documents, seed, reaching=target)
    from resrope.longtext.compare import even_block, lengths_around, verdicts
    from resrope.longtext.comparison import Comparison
    from resrope.longtext.passkey import check_room, encoder
    from resrope.longtext.perplexity import Protocol
    from resrope.longtext.retrieval import Plan
    from resrope.longtext.subject import open_subject

    wanted = [] if leval is None else _tasks_in(leval)
    longtext.tell(f"loading {model}")
    subject = open_subject(model, dtype=dtype, device=device, attn=attn, tokenizer=tokenizer)
    lengths = lengths_around(subject.native, target)
    protocol = Protocol(lengths=lengths, block=even_block(lengths[-2], target), target=target, chunk=chunk)
    keys, encode = None, encoder(tokenizer)
    if hidden:
        keys = Plan(lengths=(lengths[-2] // 2, target), depths=hidden, trials=1 if trials is None else trials)
        try:
            check_room(encode, keys.lengths[0])
        except ValueError as error:
            raise ValueError(f"{error}, half the model's context; --depths none leaves them out") from None
    study = longtext.studied(subject, asked, encoded, protocol, out)
    retrieval = None
    if keys is not None:
        retrieval = longtext.retrieved(subject, asked, keys, encode, out, chunk=chunk)
    tasks = _scored(subject, asked, wanted, leval, target, limit, out) if wanted else {}
    found = Comparison(study=study, retrieval=retrieval, tasks=tasks, verdicts=verdicts(study, retrieval))
    _report(found, out, json_output)


def _tasks_in(folder: Path) -> list[str]:
    """The tasks whose files are there. Raises ValueError where one of them cannot be read."""
    from resrope.longtext.leval.data import read_documents
    from resrope.longtext.leval.suite import wanted_tasks

    found = wanted_tasks([], folder)
    for task in found:
        read_documents(task, folder)
    return found


def _scored(
    subject: Subject,
    asked: list[Candidate],
    tasks: list[str],
    folder: Path | None,
    length: int,
    limit: int | None,
    out: Path,
) -> dict[str, dict[str, float]]:
    """L-Eval's scores in percent, by method and task."""
    from resrope.longtext.leval.suite import run_suite
    from resrope.longtext.store import Records

    found = run_suite(
        subject, asked, tasks, folder=folder, length=length, limit=limit, records=Records(out / "scores")
    )
    return {one.method: one.scores for one in found}


def _report(found: Comparison, out: Path, json_output: bool) -> None:
    from resrope.cli.output import console, print_grid, print_json
    from resrope.longtext.compare import conclusion

    longtext.write_files(out, found.files())
    if json_output:
        print_json(found.to_dict())
        return
    for grid in found.grids(intervals=False):
        print_grid(grid)
    console().print(conclusion(found.verdicts), highlight=False)
    console().print(f"report: {out / 'report.html'}", highlight=False)
