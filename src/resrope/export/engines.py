"""One entry per engine: how it wants a table spelled, and whether it would then rotate with that table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resrope.export.fold import foldable
from resrope.models.config import rope_from_config
from resrope.models.extension import Extension
from resrope.models.provenance import applied
from resrope.spec import Frequencies, frequencies

GGUF = "gguf"


_PIPELINE = "from transformers import pipeline as p; print(p('text-generation', '{out}')('Once'))"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An engine that ``extend`` writes for.

    reader: its name in ``resrope.models.engines.ENGINES``. mscale: whether the attention factor is tried
    without and with short_mscale and long_mscale, in that order. load: a command that runs {out} in it.
    also: another reader, whose agreement decides between spellings and whose objection is told.
    """

    reader: str
    mscale: tuple[bool, ...]
    load: str
    also: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A config and what speaks against it: for the engine itself, and for the reader ``Target.also``."""

    spelling: str
    folded: bool
    config: dict[str, Any]
    objection: str | None
    caveat: str | None


TARGETS: dict[str, Target] = {
    # phimoe alone wants short_mscale and long_mscale here; others are told that they are unknown keys.
    "transformers": Target(
        reader="transformers-5",
        mscale=(False, True),
        load=f'python -c "{_PIPELINE}"',
        also="transformers-4",
    ),
    "vllm": Target(reader="vllm", mscale=(True,), load="vllm serve {out} --max-model-len {length}"),
    "sglang": Target(
        reader="sglang",
        mscale=(True,),
        load="python -m sglang.launch_server --model-path {out} --context-length {length}",
    ),
    "mlx": Target(reader="mlx", mscale=(False,), load="mlx_lm.generate --model {out} --prompt Once"),
    GGUF: Target(reader="llama.cpp", mscale=(False,), load="llama-cli -m {out} -c {length} -p Once"),
}


def scales(made: Extension) -> bool:
    """Whether a changed table has an attention factor other than 1."""
    tables = made.tables()
    return any(tables[layer].attention_factor != 1.0 for layer in made.layers)


def choose(config: Mapping[str, Any], made: Extension, engine: str, fold: bool | None) -> Choice:
    """The first spelling that the engine would rotate with; ``Target.also`` decides between several.

    fold: None tries without first. Raises ValueError, with the engine's reason, where no spelling will do.
    """
    unfoldable = foldable(config) if scales(made) else None
    if fold and unfoldable is not None:
        raise ValueError(f"the attention factor cannot be folded into the weights: {unfoldable}")
    reason = ""
    for folded in _orders(made, fold):
        if folded and unfoldable is not None:
            reason += f"; nor can the attention factor be folded into the weights: {unfoldable}"
            break
        found = list(_judged(config, made, engine, folded))
        best = next((c for c in found if c.objection is None and c.caveat is None), None)
        best = best or next((c for c in found if c.objection is None), None)
        if best is not None:
            return best
        reason = found[-1].objection or ""
    raise ValueError(f"no config makes {engine} use this table, nothing was written: {reason}")


def _orders(made: Extension, fold: bool | None) -> tuple[bool, ...]:
    if not scales(made):
        return (False,)
    return (False, True) if fold is None else (fold,)


def _judged(config: Mapping[str, Any], made: Extension, engine: str, folded: bool) -> Iterator[Choice]:
    """Every spelling with what the engine has against it, up to the first that nobody objects to."""
    target, wanted = TARGETS[engine], _wanted(made, folded)
    for spelling, new in _candidates(config, made, engine, folded):
        against = _unreadable(new) or _objection(target.reader, new, wanted, made.length)
        other = None if target.also is None else _objection(target.also, new, wanted, made.length)
        caveat = None if other is None else f"{target.also} would not use this table: {other}"
        yield Choice(spelling=spelling, folded=folded, config=new, objection=against, caveat=caveat)
        if against is None and caveat is None:
            return


def _wanted(made: Extension, folded: bool) -> dict[str, Frequencies]:
    specs = made.after.specs
    return {k: frequencies(applied(s, folded and k in made.layers)) for k, s in specs.items()}


def _candidates(
    config: Mapping[str, Any], made: Extension, engine: str, folded: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every spelling of the table."""
    from resrope.models.portable import spelled, spellings

    for spelling in spellings(made, config):
        for mscale in TARGETS[engine].mscale:
            yield spelling, spelled(config, made, spelling, mscale=mscale, folded=folded, engine=engine)


def _unreadable(config: Mapping[str, Any]) -> str | None:
    """Why resrope itself could not extend or verify the written model."""
    try:
        rope_from_config(config)
    except ValueError as error:
        return f"resrope would not read it back: {error}"
    return None


def _objection(
    reader: str, config: Mapping[str, Any], wanted: Mapping[str, Frequencies], length: int
) -> str | None:
    from resrope.models.engines import ENGINES
    from resrope.models.engines.compare import objection

    return objection(ENGINES[reader](config), wanted, length)
