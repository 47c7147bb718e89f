"""The report's tables as rows of text, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

from typing import Any

from resrope.page import Grid
from resrope.posgen.locality import KINDS
from resrope.posgen.report.summary import REGIONS
from resrope.posgen.titles import title
from resrope.spec.methods import RESONANCE


def all_grids(summary: dict[str, Any]) -> list[Grid]:
    """Table 1, its split, the effects of Resonance and of scaling, in this order."""
    grids = [_table_1(summary), _split(summary), _free(summary), _resonance(summary), _scaling(summary)]
    return [grid for grid in grids if grid.rows]


def share(entry: dict[str, Any] | None) -> str:
    """``percent`` of an accuracy, whose interval ends at 0 and 1."""
    if entry is None or entry["std"] is None:
        return percent(entry)
    return percent({**entry, "low": max(0.0, entry["low"]), "high": min(1.0, entry["high"])})


def percent(entry: dict[str, Any] | None) -> str:
    """``65.3 ± 0.7 [64.5, 66.1]`` in percent: mean, standard deviation, 95 % interval. Of an accuracy or of a
    difference of two, which goes no further than 100 points either way."""
    if entry is None:
        return "–"
    if entry["std"] is None:
        return _mean(entry)
    return (
        f"{100 * entry['mean']:.1f} ± {100 * entry['std']:.1f} "
        f"[{100 * max(-1.0, entry['low']):.1f}, {100 * min(1.0, entry['high']):.1f}]"
    )


def number(share: float | None) -> str:
    """``65.3`` of 0.653."""
    return "–" if share is None else f"{100 * share:.1f}"


def _mean(entry: dict[str, Any] | None) -> str:
    return number(None if entry is None else entry["mean"])


def _table_1(summary: dict[str, Any]) -> Grid:
    """OOD accuracy of the last and the lowest-loss checkpoint, and the paper's, per task."""
    header = ["OOD accuracy, %"]
    for task in summary["tasks"]:
        header += [title(task), _best(summary)] + (["paper"] if summary["paper"] else [])
    rows = []
    for method in summary["methods"]:
        row = [title(method)]
        for task in summary["tasks"]:
            entry = summary["accuracy"][task][method]
            row += [f"{share(entry[c]['ood'])}{_fewer(summary, entry[c]['ood'])}" for c in ("last", "best")]
            if summary["paper"]:
                theirs = summary["paper"].get(task, {}).get(method)
                row.append("–" if theirs is None else f"{theirs:.2f}")
        rows.append(row)
    seeds = len(summary["seeds"])
    spread = "± standard deviation [95 % interval] over seeds" if seeds > 1 else "one seed: no interval"
    return Grid(
        f"Table 1: accuracy beyond the training length ({seeds} seed{'s' * (seeds > 1)})",
        header,
        rows,
        f"Each task: after the last step, then at the {_best(summary)} in validation; {spread}. Chance is "
        f"{100 / summary['settings']['modulus']:.1f} %.",
    )


def _fewer(summary: dict[str, Any], entry: dict[str, Any] | None) -> str:
    """Of how many seeds, where they are not all."""
    there = 0 if entry is None else len(entry["values"])
    return f" ({there} seed{'s' * (there > 1)})" if 0 < there < len(summary["seeds"]) else ""


def _best(summary: dict[str, Any]) -> str:
    """Which checkpoint the settings call the best."""
    return {"loss": "lowest loss", "accuracy": "best accuracy"}[summary["settings"]["best_by"]]


def _split(summary: dict[str, Any]) -> Grid:
    """In distribution and beyond, each by what kind of rule gives a position."""
    header = ["accuracy, %"]
    for region in ("in distribution", "OOD"):
        header += [region, *(f"… {kind}" for kind in KINDS)]
    rows = []
    for task in summary["tasks"]:
        for method in summary["methods"]:
            last = summary["accuracy"][task][method]["last"]
            rows.append([f"{title(task)}, {title(method)}", *(_mean(last[n]) for n in REGIONS)])
        for window, scores in summary["rules_alone"][task].items():
            cells = (number(scores[n]) for n in REGIONS)
            rows.append([f"{title(task)}, rules on {window} tokens", *cells])
    return Grid(
        "Where the accuracy comes from",
        header,
        rows,
        "Last step, mean over seeds. Positions by what gives them away: near, a rule on the last j+k+1 "
        "tokens; chained, one on the last 4·(j+k), through several equations; far, neither: the token at the "
        "pointer must be found, or followed up through more equations. 'Rules on …' is what a model scores "
        "that knows those rules alone, the longest on as many tokens as training reads.",
    )


def _free(summary: dict[str, Any]) -> Grid:
    """Accuracy when the model reads its own tokens; no rows unless some test sequences were generated."""
    rows = [
        [f"{title(task)}, {title(method)}", *(share(free[n]) for n in ("in_distribution", "ood"))]
        for task in summary["tasks"]
        for method in summary["methods"]
        if (free := summary["accuracy"][task][method].get("free_running"))
    ]
    count = summary["settings"]["free_running_rows"]
    return Grid(
        f"Generated from the prefix alone ({count} sequences)",
        ["accuracy, %", "in distribution", "OOD"],
        rows,
        "Last step. One wrong token spoils those that depend on it.",
    )


def _resonance(summary: dict[str, Any]) -> Grid:
    pairs = {plain: (RESONANCE + plain, plain) for plain in summary["methods"]}
    return _effect(summary, "resonance_effect", "What Resonance adds to the OOD accuracy", pairs)


def _scaling(summary: dict[str, Any]) -> Grid:
    pairs = {name: (name, "rope") for name in summary["methods"]}
    return _effect(summary, "scaling_effect", "What scaling adds to RoPE's OOD accuracy", pairs)


def _effect(summary: dict[str, Any], which: str, words: str, pairs: dict[str, tuple[str, str]]) -> Grid:
    rows = [
        [
            f"{title(task)}, {title(name)}",
            *(_signed(effect[c]) for c in ("last", "best")),
            ", ".join(f"{100 * difference:+.1f}" for difference in effect["best"]["values"]),
            _paper_effect(summary, task, *pairs[name]),
        ]
        for task in summary["tasks"]
        for name, effect in summary[which][task].items()
    ]
    return Grid(
        words,
        ["percentage points", "last step", _best(summary), "… seed by seed", "paper"],
        rows,
        "Paired by seed: same sequences, same initial weights.",
    )


def _signed(entry: dict[str, Any]) -> str:
    text = percent(entry)
    return text if text.startswith("-") else f"+{text}"


def _paper_effect(summary: dict[str, Any], task: str, one: str, other: str) -> str:
    theirs = summary["paper"].get(task, {})
    return f"{theirs[one] - theirs[other]:+.1f}" if one in theirs and other in theirs else "–"


def ended_early(verdicts: list[dict[str, Any]]) -> list[str]:
    """What took no more seeds, in a line."""
    if not verdicts:
        return []
    ended = (
        f"{title(v['task'])}, {title(v['method'])} after {len(v['seeds'])} seeds (last step "
        f"{percent(v['effect']['last'])})"
        for v in verdicts
    )
    return [
        f"Ended early, where what Resonance adds left 0 out at {100 * verdicts[0]['level']:.2f} %, for "
        f"several looks: {'; '.join(ended)}. In the tables intervals are 95 %, as if of one look."
    ]
