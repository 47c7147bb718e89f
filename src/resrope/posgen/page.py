"""The report as files: Markdown, JSON, pictures, and one HTML page that holds them all."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

from resrope.files import atomic_write
from resrope.posgen.figures import draw_all
from resrope.posgen.report import summarise_run
from resrope.posgen.tables import Grid, all_grids

_CAPTIONS = {
    "training.png": "Validation loss (Figure 3 of the paper) and OOD accuracy along training. The accuracy "
    "can rise and fall again: a single checkpoint misleads.",
    "positions.png": "Accuracy at every position of the test sequences, last step. Lines: positions that a "
    "local rule solves; dots: positions that need the far token; grey: chance.",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #24292f; max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #d8dee4 }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #8c959f }
img { max-width: 100% } .note, figcaption, footer { color: #57606a; font-size: .88rem }
figure { margin: 1.5rem 0 }
div.wide { overflow-x: auto }
"""


def write_report(out: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Write report.md, report.json, report.html and the pictures into ``out``.

    Returns the summary they show and the files' paths. Raises ValueError when ``out`` is not a run with a
    finished cell, ImportError without matplotlib.
    """
    summary, records = summarise_run(out)
    pictures = draw_all(summary, records)
    files: dict[str, bytes | str] = {
        "report.html": _html(summary, pictures),
        "report.md": _markdown(summary, pictures),
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
        f"tested on {settings['test_rows']} × {settings['test_length']}; splits share no prefix.",
        f"Task: h = {settings['h']} mod {settings['modulus']}, j = {settings['j']}, k = {settings['k']}; "
        f"seeds {', '.join(map(str, summary['seeds']))}.",
        f"Embeddings: {summary['embedding']}",
        f"{len(seconds)} cells of {min(seconds):.0f} to {max(seconds):.0f} s, {sum(seconds):.0f} s in all.",
        *summary["made"],
    ]


def _markdown(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
    parts = [f"# PosGen, preset {summary['preset']}", "\n".join(f"- {fact}" for fact in _facts(summary))]
    for grid in all_grids(summary):
        lines = [f"| {' | '.join(row)} |" for row in [grid.header, ["---"] * len(grid.header), *grid.rows]]
        parts += [f"## {grid.title}", "\n".join(lines), grid.note]
    parts += [f"![{_CAPTIONS[name]}]({name})\n\n{_CAPTIONS[name]}" for name in pictures]
    return "\n\n".join(parts) + "\n"


def _html(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
    heading = f"PosGen, preset {summary['preset']}"
    tables = "".join(_html_grid(grid) for grid in all_grids(summary))
    figures = "".join(_html_figure(name, data) for name, data in pictures.items())
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in _facts(summary))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{heading}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{heading}</h1><ul class=note>{facts}</ul>{tables}{figures}"
        "<footer>Made by <code>resrope posgen report</code>; the paper is arXiv 2403.00071.</footer></html>\n"
    )


def _html_grid(grid: Grid) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in grid.rows)
    return (
        f"<h2>{html.escape(grid.title)}</h2><div class=wide><table><thead>{row(grid.header, 'th')}</thead>"
        f"<tbody>{body}</tbody></table></div><p class=note>{html.escape(grid.note)}</p>"
    )


def _html_figure(name: str, data: bytes) -> str:
    source = base64.b64encode(data).decode()
    caption = html.escape(_CAPTIONS[name])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
