"""A study of perplexity as tables, pictures and pages."""

from __future__ import annotations

import json
from collections.abc import Sequence

from resrope.longtext.curves import ENOUGH, Ratio, ratios
from resrope.longtext.figures import CAPTIONS, draw
from resrope.longtext.study import Study
from resrope.page import Grid, Page
from resrope.pictures import title


def report_files(study: Study) -> dict[str, bytes | str]:
    """The report's files by name: Markdown, JSON, pictures, and one HTML page that holds them all."""
    pictures = draw(study)
    page = Page(
        heading=f"Perplexity of {study.model}",
        facts=facts(study),
        grids=grids(study),
        captions={name: CAPTIONS[name] for name in pictures},
        made_by=study.made["command"] or "resrope.longtext",
    )
    return {
        **pictures,
        "report.md": page.markdown(),
        "report.html": page.html(pictures),
        "report.json": json.dumps(study.to_dict(), indent=1, allow_nan=False) + "\n",
    }


def facts(study: Study) -> list[str]:
    """What was measured and how, a line each."""
    protocol = study.protocol
    window = (
        "each text read from its start; a length's number is that of the text's first so many tokens"
        if protocol.window is None
        else f"windows of {protocol.window} tokens, {protocol.stride} apart, every token counted once"
    )
    commits = sorted({c for m in study.methods.values() for c in m.commits})
    left_out = f"; too short for any: {', '.join(study.left_out)}" if study.left_out else ""
    return [
        f"The model as it is serves {study.native or 'an unknown number of'} tokens; nothing was trained. "
        f"Tokens that methods were made for: {_made_for(study)}.",
        f"{_texts(len(study.texts))}; texts that reach each length: "
        + ", ".join(f"{length}: {count}" for length, count in study.texts_by_length.items())
        + left_out,
        f"Protocol: {window}.",
        f"{study.seconds:.0f} s of reading, at commit {', '.join(commits)}.",
    ]


def _made_for(study: Study) -> str:
    """One number where it is that of all methods."""
    served = {title(label): m.serves for label, m in study.methods.items()}
    if len(set(served.values())) == 1:
        return str(next(iter(served.values())))
    return ", ".join(f"{name}: {tokens}" for name, tokens in served.items())


def grids(study: Study, *, intervals: bool = True) -> list[Grid]:
    """Perplexity by length, by block, and what Resonance changes; the last only where it was measured.

    intervals: in brackets behind the numbers, which then are too wide for a terminal.
    """
    wide = intervals and len(study.texts) >= ENOUGH
    made = [_by_length(study, wide), _by_block(study), _resonance(study, wide)]
    return [grid for grid in made if grid.rows]


def _by_length(study: Study, wide: bool) -> Grid:
    rows = []
    for label, m in study.methods.items():
        cells = zip(m.by_length.perplexity(), m.by_length.intervals(), strict=True)
        rows.append([title(label), *(_cell(ppl, interval if wide else None) for ppl, interval in cells)])
    return Grid(
        "Perplexity of the first tokens",
        ["", *(_mark(study, n) for n in study.protocol.lengths)],
        rows,
        f"exp of all nats over all tokens{_brackets(wide)}.{_legend(study)}",
    )


def _by_block(study: Study) -> Grid:
    labels = list(study.methods)
    columns = [study.methods[label].by_block.perplexity() for label in labels]
    rows = [
        [f"{b.start} – {b.end}{_star(study, b.end)}", *(_cell(column[i], None) for column in columns)]
        for i, b in enumerate(study.protocol.blocks)
    ]
    return Grid(
        "Perplexity by position",
        ["tokens", *(title(label) for label in labels)],
        rows,
        "Of the tokens at these positions alone: a collapse that the number above averages away.",
    )


def _resonance(study: Study, wide: bool) -> Grid:
    rows = [
        [title(label), *(ratio(r, wide) for r in ratios(resonant.by_length, plain.by_length))]
        for label, (resonant, plain) in study.pairs().items()
    ]
    return Grid(
        "What Resonance changes",
        ["perplexity with / without", *(_mark(study, n) for n in study.protocol.lengths)],
        rows,
        f"On the same tokens; below 1 it helps{_brackets(wide)}; ! where the interval leaves 1 out.",
    )


def _brackets(wide: bool) -> str:
    return "; in brackets 95 % intervals, texts drawn again" if wide else ""


def _texts(count: int) -> str:
    return f"{count} text{'s' * (count != 1)}"


def _mark(study: Study, length: int) -> str:
    return f"{length}{_star(study, length)}"


def _legend(study: Study) -> str:
    """What a star means, where there is one."""
    starred = _star(study, study.protocol.longest)
    return f" * beyond the {study.native} tokens of the model as it is." if starred else ""


def _star(study: Study, length: int) -> str:
    return "*" if study.native is not None and length > study.native else ""


def _cell(ppl: float | None, interval: Sequence[float] | None) -> str:
    if ppl is None:
        return "–"
    return number(ppl) + ("" if interval is None else f" [{number(interval[0])}, {number(interval[1])}]")


def number(value: float) -> str:
    """Four digits, and never an exponent.

    >>> number(9.97123), number(5123.4)
    ('9.971', '5123')
    """
    return f"{value:.{max(0, 4 - len(str(int(value))))}f}"


def ratio(found: Ratio | None, wide: bool) -> str:
    """A ratio with its interval (wide) and a ! where that leaves 1 out."""
    if found is None:
        return "–"
    interval = "" if found.low is None or not wide else f" [{found.low:.4f}, {found.high:.4f}]"
    mark = " !" if found.certain else ""
    return f"{found.ratio:.4f}{interval}{mark}"
