"""What a fine-tuning did: held-out perplexity before, during and after, its loss curve, its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resrope.page import Grid, Page
from resrope.pictures import figure, png, title

_LOSS = "The loss of every update (nats a token) and its mean over a tenth of the run."
_HELD_OUT = " Right: perplexity of held-out sequences of the training length."


def looks(record: Mapping[str, Any]) -> dict[int, float]:
    """Step -> perplexity of the held-out sequences."""
    history = record["history"]
    return {e["step"]: math.exp(e["eval_loss"]) for e in history if "eval_loss" in e}


def losses(record: Mapping[str, Any]) -> dict[int, float]:
    """Step -> loss of the update, in nats a token."""
    return {e["step"]: e["loss"] for e in record["history"] if "loss" in e}


def speed(record: Mapping[str, Any]) -> float:
    """Tokens a second, over the updates of all starts; looks and checkpoints are left out where they have an
    entry of their own."""
    recipe = record["recipe"]
    each = recipe["length"] * recipe["batch"] * recipe["accumulation"] * record["processes"]
    steps = sorted(e["seconds"] for e in record["history"] if "loss" in e)
    return each / steps[len(steps) // 2] if steps and steps[len(steps) // 2] else 0.0


def report_files(record: Mapping[str, Any], command: str) -> dict[str, bytes | str]:
    """The report's files by name. Raises ImportError without matplotlib."""
    picture = png(_drawn(record))
    page = Page(
        heading=f"{record['model']} fine-tuned with {title(record['method'])}",
        facts=_facts(record),
        grids=grids(record),
        captions={"loss.png": _LOSS + (_HELD_OUT if looks(record) else "")},
        made_by=command,
    )
    return {
        "report.md": page.markdown(),
        "report.html": page.html({"loss.png": picture}),
        "loss.png": picture,
    }


def grids(record: Mapping[str, Any]) -> list[Grid]:
    """Held-out perplexity by step; empty where nothing was held out."""
    found = looks(record)
    if not found:
        return []
    steps = list(found)
    names = {steps[0]: "before", steps[-1]: "after"}
    return [
        Grid(
            "Held-out perplexity",
            ["step", *(f"{s} ({names[s]})" if s in names else str(s) for s in steps)],
            [["perplexity", *(f"{found[s]:.3f}" for s in steps)]],
            f"Of sequences of {record['recipe']['length']} tokens; longer: resrope perplexity OUT/model.",
        )
    ]


def _facts(record: Mapping[str, Any]) -> list[str]:
    recipe, texts = record["recipe"], record["texts"]
    sequences = recipe["batch"] * recipe["accumulation"] * record["processes"]
    tokens = recipe["steps"] * sequences * recipe["length"]
    seconds = sum(e["seconds"] for e in record["history"])
    start = record["starts"][0]
    objections = [f"{engine}: {why}" for engine, why in record["verified"].items() if why is not None]
    return [
        f"{recipe['steps']} updates of {sequences} × {recipe['length']} tokens, {tokens:,} in all; "
        f"{recipe['tuning']}, {recipe['precision']}, AdamW {recipe['learning_rate']:g}, "
        f"seed {recipe['seed']}",
        f"{texts['chunks']} chunks of {len(texts['documents'])} texts, {texts['left_over']:,} of "
        f"{texts['tokens']:,} tokens left over at their ends",
        f"{record['sharding']}; {seconds / 60:.0f} minutes in {len(record['starts'])} starts, "
        f"{speed(record):,.0f} tokens/s in the median step",
        f"{start['processor']}, torch {start['torch']}, commit {start['commit']}",
        f"read back: {'; '.join(objections) or 'every engine would rotate with its table'}",
    ]


def _drawn(record: Mapping[str, Any]) -> Any:
    curve, held_out = losses(record), looks(record)
    made, axes = figure(1, 2 if held_out else 1, width=5.2)
    steps, values = list(curve), list(curve.values())
    width = max(1, len(values) // 10)
    means = [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(values))]
    axes[0, 0].plot(steps, values, color="#9aa5b1", linewidth=0.8)
    axes[0, 0].plot(steps, means, color="#31688e", linewidth=2.0)
    axes[0, 0].set_ylabel("loss (nats a token)")
    if held_out:
        axes[0, 1].plot(list(held_out), list(held_out.values()), color="#d1495b", marker="o")
        axes[0, 1].set_ylabel("held-out perplexity")
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    return made
