"""Which claims of arXiv 2403.00071 about PosGen hold? `python results/claims.py` writes claims.md.

Every kept run (`keep.py`) with the four embeddings of Table 1 is a column; what it has not is left open.
"""

from __future__ import annotations

import json
from pathlib import Path

from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.page import Page
from resrope.posgen.presets import TABLE_1_METHODS
from resrope.posgen.record import read_run
from resrope.posgen.report.claims import RULES, Claim, claims, compared, counted
from resrope.posgen.tasks import TASKS

HERE = Path(__file__).parent


def main(folder: Path = HERE) -> None:
    """Read, count, write."""
    atomic_write(folder / "claims.md", page(folder).markdown())


def page(folder: Path) -> Page:
    """A table of verdicts for every task, and one of how many there are of each."""
    runs = {file.parent.name: _claims(file.parent) for file in sorted(folder.glob("*/records.json"))}
    runs = {name: found for name, found in runs.items() if found}
    return Page(
        heading="The paper's claims about PosGen, run by run",
        facts=[
            *RULES,
            *(f"{name}: {_described(folder / name)}." for name in runs),
        ],
        grids=[counted(runs), *(compared(runs, task) for task in TASKS)],
        captions={},
        made_by="python results/claims.py",
    )


def _claims(run: Path) -> list[Claim]:
    """Nothing where it lacks one of Table 1's embeddings: such a run was made for something else."""
    _, settings = read_run(run)
    records = json.loads((run / "records.json").read_text("utf-8"))
    there = {record["cell"]["method"] for record in records}
    return claims(settings, records) if there >= set(TABLE_1_METHODS) else []


def _described(run: Path) -> str:
    preset, settings = read_run(run)
    seeds = {r["cell"]["seed"] for r in json.loads((run / "records.json").read_text("utf-8"))}
    return f"preset {preset}, h = {settings.h}, {settings.epochs} epochs, {len(seeds)} seed(s)"


if __name__ == "__main__":
    script(main)
