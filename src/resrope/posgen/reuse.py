"""Cells that a run beside has already: settings that differ, but in nothing that a cell sees.

A factor changes YaRN and leaves RoPE alone: in the rungs of an audit that turn it, RoPE is the same cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resrope.files import atomic_write
from resrope.posgen.embeddings import embedding
from resrope.posgen.record import Cell, cell_folder, read_record, read_run, write_record
from resrope.posgen.settings import TABLES, Settings
from resrope.posgen.work import described


def take_over(out: Path, cells: Iterable[Cell], settings: Settings, others: Sequence[Path]) -> list[Cell]:
    """Finish those of ``cells`` that one of the runs ``others`` has as ``out`` would have it, bit for bit;
    which they are.

    Record and weights are theirs; the record says so (``made.taken_from``) and took no seconds. Cells that
    are finished or begun in ``out`` stay as they are.
    """
    taken = []
    for cell in cells:
        if any(cell_folder(out, cell).glob("*.*")):
            continue
        found = ((other, _same(other, cell, settings)) for other in others)
        there = next(((other, record) for other, record in found if record is not None), None)
        if there is not None:
            _copy(out, cell, settings, *there)
            taken.append(cell)
    return taken


def _same(other: Path, cell: Cell, settings: Settings) -> dict[str, Any] | None:
    """The record of the cell in the run ``other``, where it depends on the same."""
    theirs, record = read_run(other)[1], read_record(other, cell)
    if record is None or _but_tables(theirs) != _but_tables(settings):
        return None
    made = described(embedding(cell.method, settings, cell.seed), cell.method, settings)
    return record if record["embedding"] == made else None


def _but_tables(settings: Settings) -> Settings:
    """Without the fields that tables are made of, which stand in a record."""
    usual = Settings()
    return replace(settings, **{name: getattr(usual, name) for name in TABLES})


def _copy(out: Path, cell: Cell, settings: Settings, other: Path, record: dict[str, Any]) -> None:
    folder = cell_folder(out, cell)
    folder.mkdir(parents=True, exist_ok=True)
    for file in cell_folder(other, cell).glob("*.safetensors"):
        atomic_write(folder / file.name, file.read_bytes())
    made = {**record["made"], "seconds": 0.0, "taken_from": other.name}
    write_record(out, cell, {**record, "settings": settings.to_dict(), "made": made})
