"""A comparison as tables and pages: the verdicts first, the numbers under them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resrope.longtext import figures, report
from resrope.longtext.compare import Verdict, conclusion
from resrope.longtext.heatmap import heatmap
from resrope.longtext.retrieval import Retrieval
from resrope.longtext.study import Study
from resrope.page import Grid, Page
from resrope.pictures import png, title

_PASSKEY = "Share of passkeys found, by length of the text and depth of the key."


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Perplexity, retrieval (None where no passkeys were hidden), tasks (scores by method and task)."""

    study: Study
    retrieval: Retrieval | None
    tasks: dict[str, dict[str, float]]
    verdicts: Sequence[Verdict]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "conclusion": conclusion(self.verdicts),
            "methods": {v.method: v.to_dict() for v in self.verdicts},
            "perplexity": self.study.to_dict(),
            "passkey": None if self.retrieval is None else self.retrieval.to_dict(),
            "tasks": self.tasks,
        }

    def grids(self, *, intervals: bool = True) -> list[Grid]:
        """Verdicts, costs on short texts, perplexity, tasks."""
        made = [self._verdicts(), self._short(intervals), *report.grids(self.study, intervals=intervals)]
        return [*made, self._tasks()] if self.tasks else made

    def files(self) -> dict[str, bytes | str]:
        """The report's files by name; report.html holds them all."""
        pictures = figures.draw(self.study)
        captions = {name: figures.CAPTIONS[name] for name in pictures}
        if self.retrieval is not None:
            pictures["passkey.png"] = png(heatmap(self.retrieval))
            captions["passkey.png"] = _PASSKEY
        page = Page(
            heading=f"{self.study.model} at {self.study.protocol.longest} tokens: is it worth it?",
            facts=[conclusion(self.verdicts), *report.facts(self.study)],
            grids=self.grids(),
            captions=captions,
            made_by=self.study.made["command"] or "resrope.longtext",
        )
        data = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        return {
            **pictures,
            "report.md": page.markdown(),
            "report.html": page.html(pictures),
            "report.json": data,
        }

    def _verdicts(self) -> Grid:
        return Grid(
            "Verdicts",
            ["", "verdict"],
            [[title(v.method), v.words] for v in self.verdicts],
            "Beyond: perplexity of all tokens past the context of the model as it is, over its own in the "
            "second half of that context. The texts differ there in more than position; compare methods.",
        )

    def _short(self, wide: bool) -> Grid:
        lengths = list(self.verdicts[0].short)
        rows = [
            [title(v.method), *(report.ratio(v.short[n], wide) for n in lengths)] for v in self.verdicts[1:]
        ]
        return Grid(
            "What it costs on short texts",
            ["perplexity over that of the model as it is", *map(str, lengths)],
            rows,
            "Of the first tokens, all inside its context: above 1 the method does harm there.",
        )

    def _tasks(self) -> Grid:
        names = list(next(iter(self.tasks.values())))
        rows = [[title(k), *(report.number(scores[n]) for n in names)] for k, scores in self.tasks.items()]
        return Grid("Tasks", ["score", *names], rows, "L-Eval's closed-ended tasks, 100 is best.")
