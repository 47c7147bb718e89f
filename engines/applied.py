"""`resrope.apply` and `save` in both majors of transformers, on every tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import cases
import tiny
from work import ENGINES, apply_each, keep, kept, within

METHOD = "resonance-yarn"
_MAJORS = ("transformers-5", "transformers-4")


def measure(architectures: Sequence[str], fresh: str, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """One record per major and architecture; what an earlier run with the same code did is taken from it."""
    records = []
    for name in _MAJORS:
        old = {a: kept(f"applied/{name}-{a}", fresh) for a in architectures}
        jobs = [_job(name, a) for a in architectures if old[a] is None]
        environment = ENGINES[name].environment
        assert environment is not None
        for architecture, line in apply_each(environment, jobs, advance).items():
            old[architecture] = _record(name, architecture, line)
            keep(f"applied/{name}-{architecture}", fresh, old[architecture])
        records += [record for record in old.values() if record is not None]
    return records


def _job(name: str, architecture: str) -> dict[str, Any]:
    out = tiny.case_folder(architecture, METHOD) / f"applied-{name}"
    shutil.rmtree(out, ignore_errors=True)
    # Method rope changes nothing and writes a config that both majors read.
    source = ENGINES[name].written(tiny.case_folder(architecture, "rope"))
    return {
        "id": architecture,
        "model": str(source),
        "method": METHOD,
        "given": {"factor": cases.FACTOR, "original_max_position_embeddings": cases.ORIGINAL},
        "tokens": cases.tokens(),
        "attention": cases.ARCHITECTURES[architecture].attention,
        "reference": str(tiny.reference_logits(architecture, METHOD)),
        "out": str(out),
    }


def _record(name: str, architecture: str, line: dict[str, Any]) -> dict[str, Any]:
    record = {"engine": name, "architecture": architecture, "method": METHOD}
    if line.get("error"):
        return {**record, "status": "failed", "reason": within(line["error"])}
    kept_keys = ("max_difference", "reloaded", "versions", "seconds")
    found = {k: line[k] for k in kept_keys if k in line}
    return {**record, "status": "ran", **found, **({"save": within(line["save"])} if "save" in line else {})}
