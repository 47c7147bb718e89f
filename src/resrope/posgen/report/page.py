"""The report as files: Markdown, JSON, pictures, and one HTML page that holds them all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resrope.files import atomic_write
from resrope.page import Grid, Page
from resrope.posgen.report.claims import claims
from resrope.posgen.report.claims import grid as claims_grid
from resrope.posgen.report.figures import draw_all
from resrope.posgen.report.summary import summarise_run
from resrope.posgen.report.tables import all_grids, ended_early
from resrope.posgen.report.window import grid as window_grid
from resrope.posgen.report.window import read_every_retested
from resrope.posgen.settings import Settings

_CAPTIONS = {
    "training.png": "Validation loss (Figure 3 of the paper) and OOD accuracy along training. The accuracy "
    "can rise and fall again: a single checkpoint misleads.",
    "kinds.png": "When each kind of position is learnt, in distribution and beyond: near, a rule on the last "
    "j+k+1 tokens gives it; chained, one on the last 4·(j+k); far, neither; grey: chance, dotted: what rules "
    "on 4·(j+k) tokens score alone.",
    "positions.png": "Accuracy at every position of the test sequences, last step. Plain lines: positions "
    "that a rule on the last j+k+1 tokens solves; with crosses: one on the last 4·(j+k) does; with dots: "
    "neither; grey: chance.",
}


def write_report(out: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Write report.md, report.json, report.html and the pictures into ``out``.

    Returns the summary they show and the files' paths. Raises ValueError when ``out`` is not a run with a
    finished cell, ImportError without matplotlib.
    """
    summary, records = summarise_run(out)
    pictures = draw_all(summary, records)
    settings = Settings().override(summary["settings"])
    found = claims(settings, records)
    summary["claims"] = [asdict(claim) for claim in found]
    grids = all_grids(summary)
    grids += [window_grid(settings, records, retested) for retested in read_every_retested(out)]
    grids += [claims_grid(found)] if found else []
    page = _page(summary, grids, pictures)
    files: dict[str, bytes | str] = {
        "report.html": page.html(pictures),
        "report.md": page.markdown(),
        "report.json": json.dumps(summary, indent=1, allow_nan=False) + "\n",
        **pictures,
    }
    for name, content in files.items():
        atomic_write(out / name, content)
    return summary, {name: out / name for name in files}


def _facts(summary: dict[str, Any]) -> list[str]:
    settings, seconds = summary["settings"], summary["seconds"].values()
    return [
        f"Preset {summary['preset']}: {settings['n_layers']} layers, d_model {settings['d_model']}, "
        f"{settings['n_heads']} heads × {settings['head_dim']}, dropout {settings['dropout']:g}, "
        f"{settings['epochs']} epochs of {settings['train_rows']} sequences × {settings['train_length']}, "
        f"batch {settings['batch_size']}, AdamW {settings['learning_rate']:g} ({settings['schedule']}), "
        f"tested on {settings['test_rows']} × {settings['test_length']}; {_otherwise(settings)}.",
        f"Task: h = {settings['h']} mod {settings['modulus']}, j = {settings['j']}, k = {settings['k']}; "
        f"seeds {', '.join(map(str, summary['seeds']))}.",
        f"Embeddings: {summary['embedding']}",
        f"{len(seconds)} cells of {min(seconds):.0f} to {max(seconds):.0f} s, {sum(seconds):.0f} s in all.",
        *ended_early(summary["settled"]),
        *summary["made"],
    ]


def _otherwise(settings: dict[str, Any]) -> str:
    """The splits, and what of the authors' code is thrown."""
    disjoint = settings["split"] == "disjoint"
    told = ["splits share no prefix" if disjoint else "validation and test rows are training rows"]
    told += [] if settings["train_feed_forward"] else ["feed-forward weights stay as they were drawn"]
    told += ["one token before every sequence"] if settings["eos_prefix"] else []
    told += [f"patience {settings['patience']} looks"] if settings["patience"] else []
    return ", ".join(told)


def _page(summary: dict[str, Any], grids: list[Grid], pictures: dict[str, bytes]) -> Page:
    return Page(
        heading=f"PosGen, preset {summary['preset']}",
        facts=_facts(summary),
        grids=grids,
        captions={name: _CAPTIONS[name] for name in pictures},
        made_by="resrope posgen report",
    )
