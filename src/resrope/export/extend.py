"""Extend a model on disk: its weights with another table of rotary frequencies, for one engine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resrope.export.dequantise import as_folder
from resrope.export.engines import GGUF, TARGETS, Choice, choose, scales
from resrope.export.fold import edits
from resrope.export.folder import Written, check_new, write_folder
from resrope.export.report import Report, card_section, change
from resrope.export.weights import checkpoint
from resrope.models.extension import Extension, extension, trained_length
from resrope.models.gguf import smollm2_path
from resrope.models.provenance import provenance
from resrope.models.source import SMOLLM2, config_of, read_config
from resrope.spec import check

Progress = Callable[[int, int], None]


def extend(
    source: str | Path,
    out: str | Path,
    name: str,
    *,
    engine: str = "transformers",
    length: int | None = None,
    layers: tuple[str, ...] | None = None,
    replace_scaling: bool = False,
    fold: bool | None = None,
    link: bool = False,
    progress: Progress | None = None,
    **parameters: Any,
) -> Report:
    """Write ``source`` to ``out`` with the table of method ``name``, so that the stock ``engine`` uses it.

    source: a Hugging Face folder, a .gguf file or ``smollm2``. out: a folder, or for engine gguf a file;
    it must not exist. engine: transformers, vllm, sglang, mlx or gguf. length, layers, replace_scaling,
    parameters: as in ``models.extension``. fold: multiply the attention factor into the weights; None does
    it where the engine would not read it. link: hard links to the weights of ``source`` that do not change,
    instead of copies. progress gets (bytes done, bytes in all).

    Raises ValueError, in one line, for everything ``extension`` refuses, for dynamic NTK without a length,
    and where the engine would rotate with any other table, with the engine's reason; OSError when the disk
    is too small. Nothing is left behind then.
    """
    start = time.perf_counter()
    check.one_of("engine", engine, tuple(TARGETS))
    source, out = _resolved(source), Path(out)
    _check_out(out, engine)
    if link and engine == GGUF:
        raise ValueError("link (--link) is for folders: engine gguf writes one new file")
    made = _extension(source, name, length, layers, replace_scaling, parameters)
    if engine == GGUF:
        choice, written = _write_gguf(source, out, made, bool(fold))
    else:
        with as_folder(source, out) as folder:
            if folder != source:
                # A GGUF file tells less of its RoPE than the config made from it (partial rotation).
                made = _extension(folder, name, length, layers, replace_scaling, parameters)
            # What is made for this alone can be linked.
            own = link or folder != source
            choice, written = _write_folder(folder, out, made, engine, fold, own, progress)
    return Report(
        method=name,
        engine=engine,
        out=str(out),
        original_length=trained_length(made.after),
        length=made.length,
        spelling=choice.spelling,
        folded=choice.folded,
        layers=tuple(change(made, layer) for layer in made.after.specs),
        files=written.files,
        linked=written.linked if source.is_dir() else (),
        left_out=written.left_out,
        caveat=choice.caveat,
        load=_load(engine, str(out), made),
        seconds=time.perf_counter() - start,
    )


def _resolved(source: str | Path) -> Path:
    path = smollm2_path() if str(source) == SMOLLM2 else Path(source)
    if path.is_file() and path.suffix != ".gguf":
        raise ValueError(f"{source}: extend needs the weights too; give the folder or a .gguf file")
    return path


def _check_out(out: Path, engine: str) -> None:
    check_new(out)
    if engine == GGUF and out.suffix != ".gguf":
        raise ValueError(f"engine gguf writes one file, whose name must end in .gguf, got {out}")
    if engine != GGUF and out.suffix == ".gguf":
        raise ValueError(f"engine {engine} writes a folder, got {out}: for a GGUF file give --engine gguf")


def _extension(
    source: Path,
    name: str,
    length: int | None,
    layers: tuple[str, ...] | None,
    replace_scaling: bool,
    parameters: Mapping[str, Any],
) -> Extension:
    rope = read_config(source)
    made = extension(rope, name, length=length, layers=layers, replace_scaling=replace_scaling, **parameters)
    if not made.fixed_length:
        raise ValueError(
            f"{name} depends on the running length, and a written model has one table: "
            "give the length it shall serve with length (--length)"
        )
    return made


def _load(engine: str, out: str, made: Extension) -> str:
    # The one for transformers is Python inside the shell's quotes.
    quoted = out if engine == "transformers" else shlex.quote(out)
    return TARGETS[engine].load.format(out=quoted, length=made.length)


def _write_gguf(source: Path, out: Path, made: Extension, fold: bool) -> tuple[Choice, Written]:
    from resrope.export.convert import convert
    from resrope.export.gguf import write_gguf

    tables = made.tables()
    if set(tables) != {"default"}:
        raise ValueError(f"a GGUF file has one table, the model has one for each of {', '.join(tables)}")
    folded = fold and scales(made)
    write = convert if source.is_dir() else write_gguf
    record = provenance(made, folded=folded, engine=TARGETS[GGUF].reader)
    write(source, out, table=tables["default"], length=made.length, provenance=record, fold=folded)
    choice = Choice(spelling=GGUF, folded=folded, config={}, objection=None, caveat=None)
    return choice, Written(files=(out.name,), linked=(), left_out=())


def _write_folder(
    folder: Path,
    out: Path,
    made: Extension,
    engine: str,
    fold: bool | None,
    link: bool,
    progress: Progress | None,
) -> tuple[Choice, Written]:
    config = config_of(folder)
    choice = choose(config, made, engine, fold)
    factors = {k: table.attention_factor for k, table in made.tables().items() if k in made.layers}
    changes = edits(config, checkpoint(folder).tensors(), factors) if choice.folded else {}
    written = write_folder(
        folder,
        out,
        choice.config,
        length=made.length,
        section=card_section(made, engine, choice.spelling, choice.folded, _load(engine, ".", made)),
        edits=changes,
        link=link,
        progress=progress,
    )
    return choice, written
