"""A run's cells tested once more with heads that see the last tokens alone: how much of what they get wrong
beyond the training length comes from looking at distances that training never met.

Cutting attention at the training length is the Λ-shaped mask of LM-Infinite (arXiv 2308.16137) without its
first tokens; here nothing is made of it but a measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from resrope.files import atomic_write
from resrope.page import Grid
from resrope.posgen.cell import trained
from resrope.posgen.evaluate import counted, evaluate
from resrope.posgen.positions import Where
from resrope.posgen.record import Cell, read_records, read_run
from resrope.posgen.report import rules_alone
from resrope.posgen.settings import Settings
from resrope.posgen.tables import title
from resrope.spec.check import integer

FILE = "window.json"
_REGIONS = {"in_distribution": "in distribution", "ood": "OOD", "ood_near": "OOD, near"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retested:
    """One cell after its last step: what it got right at every position, as it is (``before``) and with heads
    that see the last ``tokens`` tokens (``after``), of ``rows`` test sequences."""

    cell: Cell
    tokens: int
    rows: int
    before: list[int]
    after: list[int]


def limited(where: Where, tokens: int, n_heads: int) -> Where:
    """``where`` with keys that are ``tokens`` or more before the query left out."""
    position = torch.arange(len(where), device=where.turns.device)
    back = position[:, None] - position
    hidden = torch.zeros(back.shape, device=back.device).masked_fill(back >= tokens, -torch.inf)
    bias = hidden.expand(n_heads, -1, -1) if where.bias is None else where.bias + hidden
    return replace(where, bias=bias)


def retest(run: Path, cell: Cell, tokens: int) -> Retested:
    """Test a finished cell with attention cut. Raises ValueError where it is not finished."""
    work, record = trained(run, cell)
    settings, model = work.settings, work.trainer.model

    def where(length: int) -> Where:
        return limited(work.where(length), tokens, settings.n_heads)

    seen = evaluate(model, where, work.test, work.task.prefix_length, settings.before)
    last = record["last"]
    return Retested(
        cell=cell,
        tokens=tokens,
        rows=seen.rows,
        before=last["correct_by_position"],
        after=seen.correct.tolist(),
    )


def retest_run(
    run: Path, tokens: int | None = None, done: Callable[[Retested], None] = lambda cell: None
) -> list[Retested]:
    """Every finished cell of a run, into its window.json; tokens: the training length unless given.

    Raises ValueError when ``run`` is not a run, has no finished cell, or for tokens below 1.
    """
    _, settings = read_run(run)
    tokens = settings.before + settings.train_length if tokens is None else tokens
    integer("tokens", tokens, 1, "what a head sees")
    made = []
    for record in read_records(run):
        made.append(retest(run, Cell(**record["cell"]), tokens))
        done(made[-1])
    if not made:
        raise ValueError(f"{run} has no finished cell yet; run `resrope posgen run` on it first")
    atomic_write(run / FILE, json.dumps([asdict(cell) for cell in made]) + "\n")
    return made


def read_retested(run: Path) -> list[Retested]:
    """What ``retest_run`` found of a run; nothing where it was not asked."""
    if not (run / FILE).is_file():
        return []
    told = json.loads((run / FILE).read_text(encoding="utf-8"))
    return [Retested(**{**one, "cell": Cell(**one["cell"])}) for one in told]


def grid(settings: Settings, found: Sequence[Retested]) -> Grid:
    """Accuracy as it is and with attention cut, mean over seeds, beside what rules score."""
    tokens = found[0].tokens
    header = ["accuracy, %"]
    for words in _REGIONS.values():
        header += [words, f"cut at {tokens}"]
    rows = []
    for task in dict.fromkeys(a.cell.task for a in found):
        for method in dict.fromkeys(a.cell.method for a in found if a.cell.task == task):
            own = [a for a in found if (a.cell.task, a.cell.method) == (task, method)]
            cells = [_mean(settings, own, region, cut) for region in _REGIONS for cut in (False, True)]
            rows.append([f"{title(task)}, {title(method)}", *cells])
        for window, scores in rules_alone(settings, task).items():
            told = [_percent(scores[region]) for region in _REGIONS for _ in range(2)]
            rows.append([f"{title(task)}, rules on {window} tokens", *told])
    return Grid(
        f"Tested again with heads that see the last {tokens} tokens",
        header,
        rows,
        "After the last step, mean over seeds; nothing is trained anew. Near: positions that a rule on the "
        "last j+k+1 tokens gives. What the cut brings back was lost to distances beyond it.",
    )


def _mean(settings: Settings, own: Sequence[Retested], region: str, cut: bool) -> str:
    parts: list[dict[str, Any]] = [
        {"rows": a.rows, "correct_by_position": a.after if cut else a.before} for a in own
    ]
    shares = [counted(settings, a.cell.task, part)[region] for a, part in zip(own, parts, strict=True)]
    there = [share for share in shares if share is not None]
    return _percent(fmean(there) if there else None)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
