"""Examine a model's rotary parameters: what is wrong with them, and what each engine makes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resrope.files import atomic_write, beside
from resrope.models import buffers, gguf
from resrope.models.config import ModelRope, innermost, rope_from_config
from resrope.models.engines import Reading, readings, transformers
from resrope.models.engines.compare import Distance, apart
from resrope.models.engines.guard import NOT_KNOWN
from resrope.models.engines.reading import text_part
from resrope.models.findings import Finding, Severity, config_findings, table_findings
from resrope.models.repair import repaired
from resrope.models.source import SMOLLM2, config_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What ``examine`` found.

    rope: what the config means, None where it cannot be told. findings: errors first. readings and
    distances: by engine; no readings for GGUF files, no distance where an engine would not load.
    """

    source: str
    rope: ModelRope | None
    findings: tuple[Finding, ...]
    readings: dict[str, Reading] = field(default_factory=dict)
    distances: dict[str, Distance] = field(default_factory=dict)

    @property
    def is_sick(self) -> bool:
        """Whether there is a finding of severity error."""
        return any(finding.severity == "error" for finding in self.findings)

    def verdict(self, engine: str) -> str:
        """What an engine will do, in plain words."""
        reading, found = self.readings[engine], self.distances.get(engine)
        if reading.refusal is not None:
            unknown = reading.refusal.startswith(NOT_KNOWN)
            return reading.refusal if unknown else f"would not load: {reading.refusal}"
        if found is None:
            return (
                " ".join(reading.ignored) or "cannot be compared: resrope cannot tell what the config means"
            )
        if found.agrees:
            return "reads it as written"
        return f"{' '.join(reading.ignored) or 'reads it otherwise.'} ({found.words()})"


def examine(source: str | Path) -> Diagnosis:
    """What is wrong with the rotary parameters of ``source``, and what each engine makes of them.

    source: a config.json, a folder holding one (its safetensors files are looked into for saved
    frequencies), a .gguf file, or ``smollm2``. Imports torch. Raises ValueError for what cannot be read.
    """
    path = gguf.smollm2_path() if str(source) == SMOLLM2 else Path(source)
    if path.suffix == ".gguf" and path.is_file():
        rope = gguf.read_gguf(path)
        return Diagnosis(source=str(source), rope=rope, findings=_sorted(table_findings(rope)))
    config = config_of(path)
    found = examine_config(config, str(source))
    if found.rope is None or not path.is_dir():
        return found
    return replace(found, findings=_sorted([*found.findings, *buffers.buffer_findings(path, found.rope)]))


def examine_config(config: Mapping[str, Any], source: str = "config") -> Diagnosis:
    """``examine`` for a config that is loaded already. Raises ValueError where it has no RoPE."""
    text = text_part(config)
    findings = list(config_findings(text))
    made = readings(config)
    try:
        rope = rope_from_config(config)
    except ValueError as error:
        if str(error).startswith("no rotary position embedding"):
            raise ValueError(f"{source}: {error}") from None
        return _unreadable(source, findings, made, str(error))
    distances = {name: apart(r, rope.specs) for name, r in made.items() if r.refusal is None}
    findings += table_findings(rope, config.get("dtype") or config.get("torch_dtype") or text.get("dtype"))
    diagnosis = Diagnosis(source=source, rope=rope, findings=(), readings=made, distances=distances)
    findings += _engine_findings(diagnosis)
    return replace(diagnosis, findings=_sorted(_with_fixes(config, findings)))


def _unreadable(source: str, findings: list[Finding], made: dict[str, Reading], why: str) -> Diagnosis:
    explained = ("private-flag", "scaling-twice")
    if not any(f.code in explained for f in findings):
        findings = [*findings, Finding(severity="error", code="unreadable", message=why)]
    plain = [replace(f, fix=None) for f in findings]
    return Diagnosis(source=source, rope=None, findings=_sorted(plain), readings=made)


def _sorted(findings: Any) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: ("error", "warning", "note").index(f.severity)))


def _with_fixes(config: Mapping[str, Any], findings: list[Finding]) -> list[Finding]:
    """The findings, with the changed fields where they can be repaired."""
    try:
        after, before = innermost(repaired(config)), innermost(config)
    except ValueError:
        return [replace(f, fix=None) for f in findings]
    changes = {k: v for k, v in after.items() if k not in before or before[k] != v}
    return [f if f.fix is None else replace(f, fix=changes or None) for f in findings]


def _engine_findings(diagnosis: Diagnosis) -> list[Finding]:
    """A finding for each engine that refuses the config or reads it otherwise."""
    found = []
    for name, reading in diagnosis.readings.items():
        found_apart = diagnosis.distances.get(name)
        if reading.refusal is not None:
            joint = ":" if reading.refusal.startswith(NOT_KNOWN) else ""
            message = f"{name}{joint} {diagnosis.verdict(name)}"
            # What the newest transformers would not load is no checkpoint.
            broken = name == transformers.ENGINE and not joint
            severity: Severity = "error" if broken else "note"
            found.append(Finding(severity=severity, code="engine-refuses", message=message))
        elif found_apart is not None and not found_apart.agrees:
            message = f"{name}: {diagnosis.verdict(name)}"
            found.append(Finding(severity="warning", code="engine-differs", message=message))
    return found


def fix(source: str | Path, out: Path) -> Path:
    """Write the repaired config of ``source`` as ``out`` and return the path of the file.

    out: a .json file, or a folder to create with config.json in it; neither may exist. Whole or not at
    all. Raises ValueError when nothing is wrong that a repair could change, and when what the config means
    is not certain.
    """
    path = Path(source)
    if str(source) == SMOLLM2 or path.suffix == ".gguf":
        raise ValueError(f"only configs can be repaired, got {source}; a GGUF file has to be converted anew")
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} exists already; give a path that does not")
    found = examine(source)
    unclear = [f for f in found.findings if f.severity == "error" and f.fix is None]
    if unclear:
        raise ValueError(f"{source} cannot be repaired for certain: {unclear[0].message}")
    if not any(f.fix for f in found.findings):
        raise ValueError(f"{source}: nothing is wrong that a repair of the config could change")
    text = json.dumps(repaired(config_of(path)), indent=2, ensure_ascii=False) + "\n"
    if out.suffix == ".json":
        atomic_write(out, text)
        return out
    return _write_folder(out, text)


def _write_folder(out: Path, text: str) -> Path:
    made = beside(out)
    made.mkdir()
    try:
        atomic_write(made / "config.json", text)
        made.rename(out)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return out / "config.json"
