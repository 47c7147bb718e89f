"""What the token before a sequence does: `python results/first_token.py runs/small-released`

A run with eos_prefix of which `resrope posgen window` was asked: its cells tested once more, on some
sequences, with heads that see as many last tokens as there and the first of all (the Λ-shaped mask of
LM-Infinite, arXiv 2308.16137). Writes first-token.md into this folder. A kept run has no weights; this takes
the folder of the run.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.page import Grid, Page
from resrope.posgen.evaluate import accuracies, evaluate
from resrope.posgen.positions import Where
from resrope.posgen.record import read_run
from resrope.posgen.report.window import Retested, limited, read_retested
from resrope.posgen.titles import title
from resrope.posgen.work import trained
from resrope.provenance import provenance

HERE = Path(__file__).parent


def main(run: Path, rows: int = 100, out: Path = HERE) -> None:
    """Test, count, write."""
    _, settings = read_run(run)
    found = read_retested(run)
    if not (settings.before and found):
        raise ValueError(f"{run} must be a run with eos_prefix, after `resrope posgen window`")
    scores: dict[tuple[str, str], list[float]] = {}
    for one in found:
        scores.setdefault((one.cell.task, one.cell.method), []).append(with_first(run, one, rows))
    grid = Grid(
        f"OOD accuracy with heads that see the last {found[0].tokens} tokens and the first",
        ["accuracy, %", "mean", "seed by seed"],
        [
            [f"{title(task)}, {title(method)}", f"{fmean(each):.1f}", ", ".join(f"{x:.1f}" for x in each)]
            for (task, method), each in scores.items()
        ],
        f"After the last step, on {rows} test sequences; nothing is trained anew.",
    )
    made = provenance()
    page = Page(
        heading="What the token before a sequence does",
        facts=[f"{run.name}, tested at commit {made['commit']} on {made['date']}."],
        grids=[grid],
        captions={},
        made_by=f"python results/first_token.py runs/{run.name}",
    )
    atomic_write(out / "first-token.md", page.markdown())


def with_first(run: Path, one: Retested, rows: int) -> float:
    """OOD accuracy in per cent of one cell."""
    work, _ = trained(run, one.cell)
    settings = work.settings

    def where(length: int) -> Where:
        return limited(work.where(length), one.tokens, settings.n_heads, first=1)

    tested = evaluate(work.trainer.model, where, work.test[:rows], work.task.prefix_length, settings.before)
    accuracy = accuracies(tested, work.task, settings.train_length)["ood"]
    assert accuracy is not None
    return 100 * accuracy


if __name__ == "__main__":
    script(main)
