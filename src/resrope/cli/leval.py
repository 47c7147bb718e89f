"""`resrope leval`: L-Eval's closed-ended suite on a model, or the scores of stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from resrope.cli import longtext
from resrope.cli.evaluate import BatchSize, ChatTemplate, Limit, Out, print_scores
from resrope.cli.values import names


class _ModelFirst(TyperGroup):
    """A group where `leval MODEL …` means `leval run MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


leval = typer.Typer(
    name="leval",
    cls=_ModelFirst,
    help="L-Eval's closed-ended tasks. `resrope leval MODEL` is short for `resrope leval run MODEL`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@leval.command()
def run(
    model: longtext.Model,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder with coursera.jsonl, tpo.jsonl, ….  [default: L4NLP/LEval on the hub]",
            envvar="LEVAL_DATA",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task", help="coursera, gsm100, quality, tpo, codeU, sci_fi.  [default: all that DATA has]"
        ),
    ] = None,
    methods: longtext.Methods = None,
    factor: longtext.Factor = None,
    length: Annotated[
        int,
        typer.Option(
            min=513,
            help="Tokens of document and answer (L-Eval's max_length), which the methods serve; the question "
            "comes on top.",
        ),
    ] = 16384,
    parameters: longtext.Set = None,
    replace: longtext.Replace = False,
    loglikelihood: Annotated[
        bool,
        typer.Option(
            "--loglikelihood",
            help="Choose the likeliest of A to D instead of writing an answer; of coursera only questions "
            "with one right option. For small models.",
        ),
    ] = False,
    limit: Limit = None,
    batch_size: BatchSize = 1,
    apply_chat_template: ChatTemplate = False,
    dtype: longtext.Dtype = None,
    device: longtext.Device = None,
    attn: longtext.Attn = None,
    out: Out = Path("runs/leval"),
    json_output: longtext.Json = False,
) -> None:
    """Ask a model L-Eval's questions, with every method in turn; nothing is trained.

    Greedy answers of up to 512 tokens are scored as L-Eval scores them, in percent. The mean is that of the
    whole suite, and only there when all of it was asked. --limit counts a question of sci_fi twice: it is
    asked about the document and about the world. A method that is finished is kept in OUT.

    Example: `resrope leval smollm2 --data leval --method own --method resonance-yarn --factor 2`
    """
    from resrope.longtext.leval.suite import run_suite, wanted_tasks
    from resrope.longtext.store import Records
    from resrope.longtext.subject import open_subject

    longtext.quiet_libraries()
    asked = longtext.chosen(methods, factor, parameters, replace)
    named = [] if tasks is None else names("--task", tasks)
    wanted = wanted_tasks(named, data, loglikelihood=loglikelihood)
    found = list(
        run_suite(
            open_subject(model, dtype=dtype, device=device, attn=attn),
            asked,
            wanted,
            folder=data,
            length=length,
            loglikelihood=loglikelihood,
            limit=limit,
            batch_size=batch_size,
            apply_chat_template=apply_chat_template,
            records=Records(out / "scores"),
        )
    )
    if json_output:
        from resrope.cli.output import print_json

        by_method = {
            one.method: {"scores": one.scores, "mean": one.mean, "seconds": one.seconds} for one in found
        }
        print_json({"model": model, "length": length, "limit": limit, "methods": by_method})
        return
    rows = {one.method: one.scores if one.mean is None else {**one.scores, "mean": one.mean} for one in found}
    print_scores(rows, f"{model}, {length} tokens, percent")


@leval.command()
def score(
    file: Annotated[Path, typer.Argument(help="Predictions, one JSON object a line.", show_default=False)],
    task: Annotated[
        str, typer.Option(help="coursera, gsm100, quality, tpo, codeU or sci_fi.", show_default=False)
    ],
    json_output: longtext.Json = False,
) -> None:
    """Score the stored predictions of any system, as L-Eval's own evaluation does.

    Every line has `prediction` and `output`, the right answer as L-Eval's files write it; L-Eval's own
    prediction files, with `…_pred` and `gt`, are read too. In sci_fi both hold two answers:
    `True [fact: False]`, by the document and by the world. The score is the mean grade × 100; `reported` is
    how L-Eval prints it, with four decimals.

    Example: `resrope leval score --task tpo predictions.jsonl`
    """
    from resrope.longtext.leval.data import read_predictions
    from resrope.longtext.leval.scoring import reported, task_name
    from resrope.longtext.leval.scoring import score as score_of

    name = task_name(task)
    predictions, outputs = read_predictions(file)
    total = score_of(name, predictions, outputs)
    if json_output:
        from resrope.cli.output import print_json

        four_decimals = reported(name, predictions, outputs)
        print_json({"task": name, "questions": len(outputs), "score": total, "reported": four_decimals})
        return
    typer.echo(f"{name}: {total:.4f} over {len(outputs)} questions")


@leval.command()
def path() -> None:
    """Print the folder that lm_eval's --include_path wants.

    Documents come from the folder in the metadata (leval_data) or in LEVAL_DATA, and are cut to max_length of
    the model_args less 1536 tokens: 512 for the answer, 1024 for the question.

    Example: `lm_eval --model hf --model_args pretrained=MODEL,max_length=17408 --tasks leval
    --include_path $(resrope leval path) --metadata '{"leval_data": "DIR"}'`
    """
    from resrope.longtext.leval import TASK_FOLDER

    typer.echo(TASK_FOLDER)
