"""Where heads look: `python results/attention.py runs/small/cot-rope-seed0 runs/small/cot-yarn-seed0 …`

Draws finished cells (a run's folder and a cell's name) as `resrope posgen attention` does, and writes tables
and pictures into the folder attention. A kept run has no weights; this takes the folder that it ran in.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.page import Page
from resrope.pictures import png
from resrope.posgen.record import Cell
from resrope.posgen.report.attention import drawn, grid, look

OUT = Path(__file__).parent / "attention"


def main(places: list[Path], out: Path = OUT) -> None:
    """Look at every cell, then write all at once."""
    grids, pictures, captions = [], {}, {}
    for place in places:
        looked = look(place.parent, named(place.name))
        name = f"{place.parent.name}-{place.name}.png"
        made = grid(looked)
        grids.append(replace(made, title=f"{place.parent.name}: {made.title}, seed {looked.cell.seed}"))
        pictures[name], captions[name] = png(drawn(looked)), grids[-1].title
    cells = [f"runs/{place.parent.name}/{place.name}" for place in places]
    told = [] if out == OUT else [f"--out results/{out.name}"]
    page = Page(
        heading="Where heads look",
        facts=[
            "Mean over test sequences; maps: the square root of attention, from black (none) to white (all).",
            "A second diagonal below the first is an echo: a head that looks at near tokens looks at others "
            "too, further back by about as much as the fast features take to come round.",
        ],
        grids=grids,
        captions=captions,
        made_by=" ".join(["python results/attention.py", *cells, *told]),
    )
    out.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        atomic_write(out / name, picture)
    atomic_write(out / "report.md", page.markdown())


def named(name: str) -> Cell:
    """The cell of a folder's name. Raises ValueError where it is none."""
    found = re.fullmatch(r"(recursive|cot|semi-recursive)-(.+)-seed(\d+)", name)
    if found is None:
        raise ValueError(f"must be a cell's name, as cot-rope-seed0, got {name}")
    return Cell(task=found[1], method=found[2], seed=int(found[3]))


if __name__ == "__main__":
    script(main)
