import re
from pathlib import Path

import pytest

from resrope.posgen.rules import rules
from resrope.posgen.tasks import Task
from resrope.posgen.titles import title

DOCS = Path(__file__).parents[2] / "docs" / "posgen.md"


def documented():
    """Rows of the card's table: (task and h, numbers)."""
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:CoT|Semi-recursive), \w+) \| ([\d. |]+) \|$", text, re.MULTILINE)
    return [(name, [float(cell) for cell in cells.split(" | ")]) for name, cells in rows]


def test_the_documents_table():
    names = {title(name): name for name in ("cot", "semi-recursive")}
    assert len(documented()) == 9
    for label, numbers in documented():
        task, h = label.split(", ")
        found = rules(Task(name=names[task], h=h), 64, 256)
        wanted = [
            *(found.windows[w] for w in (4, 16, 64)),
            found.copying,
            found.near,
            found.chained,
            found.far,
            found.hidden,
        ]
        assert numbers == pytest.approx([100 * one for one in wanted], abs=0.06), label
        assert found.far_dependent == (task == "Semi-recursive" and h in ("lookup", "bit"))
