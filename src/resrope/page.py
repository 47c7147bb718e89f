"""Tables and pictures as Markdown and as one HTML page that holds everything; standard library only."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


class Link(str):
    """The words of a link in a cell; ``url`` is where it goes."""

    url: str

    def __new__(cls, words: str, url: str) -> Link:
        """Words that lead to ``url``."""
        made = super().__new__(cls, words)
        made.url = url
        return made


@dataclass(frozen=True, slots=True)
class Grid:
    """A titled table; the first column is the row's name. A cell may be a ``Link``."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A report: what it is about, its tables, its pictures.

    facts: one line each, before the tables. captions: file name -> caption, in the order of the pictures.
    made_by: the command that made it.
    """

    heading: str
    facts: Sequence[str]
    grids: Sequence[Grid]
    captions: Mapping[str, str]
    made_by: str

    def markdown(self) -> str:
        """Markdown that shows the pictures as files beside it."""
        parts = [f"# {self.heading}", "\n".join(f"- {fact}" for fact in self.facts)]
        for grid in self.grids:
            parts += [f"## {grid.title}", markdown_table(grid), *([grid.note] if grid.note else [])]
        parts += [f"![{caption}]({name})\n\n{caption}" for name, caption in self.captions.items()]
        return "\n\n".join(parts) + "\n"

    def html(self, pictures: Mapping[str, bytes]) -> str:
        """One file that needs no other. pictures: PNG by file name, one for every caption."""
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.facts)
        tables = "".join(_html_grid(grid) for grid in self.grids)
        figures = "".join(_html_figure(caption, pictures[name]) for name, caption in self.captions.items())
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.heading)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style><h1>{html.escape(self.heading)}</h1>"
            f"<ul class=note>{facts}</ul>{tables}{figures}"
            f"<footer>Made by <code>{html.escape(self.made_by)}</code>; "
            "the paper is arXiv 2403.00071.</footer></html>\n"
        )


def markdown_table(grid: Grid) -> str:
    """The rows of ``grid`` as a Markdown table, without title and note."""
    rows = [grid.header, ["---"] * len(grid.header), *grid.rows]
    return "\n".join(f"| {' | '.join(map(_markdown_cell, row))} |" for row in rows)


def _markdown_cell(cell: str) -> str:
    words = cell.replace("|", "\\|").replace("<", "\\<")  # no markup that others handed in
    return f"[{words}]({cell.url})" if isinstance(cell, Link) else words


def _html_cell(cell: str) -> str:
    words = html.escape(cell)
    return f'<a href="{html.escape(cell.url)}">{words}</a>' if isinstance(cell, Link) else words


def _html_grid(grid: Grid) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_html_cell(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in grid.rows)
    return (
        f"<h2>{html.escape(grid.title)}</h2><div class=wide><table><thead>{row(grid.header, 'th')}</thead>"
        f"<tbody>{body}</tbody></table></div><p class=note>{html.escape(grid.note)}</p>"
    )


def _html_figure(caption: str, picture: bytes) -> str:
    source, words = base64.b64encode(picture).decode(), html.escape(caption)
    return (
        f'<figure><img alt="{words}" src="data:image/png;base64,{source}">'
        f"<figcaption>{words}</figcaption></figure>"
    )
