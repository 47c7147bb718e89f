"""Read a checkpoint back the way every engine would, and say how far that is from what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resrope.models import gguf
from resrope.models.config import innermost, rope_from_config
from resrope.models.engines import ENGINES
from resrope.models.engines.compare import Distance, distance, objection
from resrope.models.provenance import KEY, recorded_specs
from resrope.models.source import config_of
from resrope.spec import Frequencies, RopeSpec, frequencies

LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One engine's reading against the wanted tables.

    distance: of the table it uses within its own boundary; None when it would not load the model.
    objection: why it would not rotate with the wanted tables, in words; None when it would.
    """

    engine: str
    distance: Distance | None
    objection: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What every engine makes of a checkpoint.

    method and written_for: what the checkpoint itself says; None where resrope did not write it, and the
    wanted tables are then those that its config describes. length: tokens they serve.
    """

    source: str
    method: str | None
    written_for: str | None
    length: int | None
    wanted: Mapping[str, Frequencies]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the engine it was written for (any, if it does not say) rotates with the wanted tables."""
        meant = self.written_for or ""
        return any(c.objection is None for c in self.checks if c.engine.startswith(meant))


def verify(source: str | Path) -> Verification:
    """Compare what every engine would read from ``source`` with the tables it should have.

    source: a folder with a config.json, the file itself, or a .gguf file. For a GGUF file the only
    engine is llama.cpp, in the arithmetic of its own powers. Raises ValueError, in one line, for what
    cannot be read.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        return _verify_gguf(path)
    config = config_of(source)
    text = innermost(config)
    rope = rope_from_config(config)
    wanted = {layer: frequencies(spec) for layer, spec in rope.specs.items()}
    record: Mapping[str, Any] = text.get(KEY) or {}
    length = rope.max_position_embeddings
    checks = tuple(_check(name, config, wanted, length or 0) for name in ENGINES)
    return Verification(
        source=str(source),
        method=record.get("method"),
        written_for=record.get("engine"),
        length=length,
        wanted=wanted,
        checks=checks,
    )


def _check(engine: str, config: Mapping[str, Any], wanted: Mapping[str, Frequencies], length: int) -> Check:
    reading = ENGINES[engine](config)
    found = None if reading.refusal is not None else distance(reading.tables, wanted)
    return Check(engine=engine, distance=found, objection=objection(reading, wanted, length))


def _verify_gguf(path: Path) -> Verification:
    """llama.cpp's own reading against the recorded specs; against themselves where there are none."""
    rope = gguf.read_gguf(path)
    record = gguf.gguf_provenance(path) or {}
    recorded: Mapping[str, RopeSpec] = recorded_specs({KEY: record or None}) or rope.specs
    wanted = {layer: frequencies(spec) for layer, spec in recorded.items()}
    read = distance({layer: frequencies(spec) for layer, spec in rope.specs.items()}, wanted)
    words = None if read.agrees else "the file's factors give other frequencies than it records"
    return Verification(
        source=str(path),
        method=record.get("method"),
        written_for=LLAMA_CPP,
        length=rope.max_position_embeddings,
        wanted=wanted,
        checks=(Check(engine=LLAMA_CPP, distance=read, objection=words),),
    )
