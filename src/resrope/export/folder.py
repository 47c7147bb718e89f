"""A Hugging Face folder with another config: written whole beside its name, then renamed, or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resrope.export.weights import Checkpoint, Edit, checkpoint, patch, place, read_header
from resrope.files import beside

CONFIG = "config.json"
CARD = "README.md"
TOKENIZER = "tokenizer_config.json"
HEADING = "## Extended context"
# Weights in other formats: they have the old table, or are pickles.
_OTHER_FORMATS = "bin ckpt gguf h5 llamafile mlmodel msgpack npz onnx ot pickle pkl pt pth safetensors tflite"
_OTHER_WEIGHTS = tuple(
    f".{name}{index}" for name in _OTHER_FORMATS.split() for index in ("", "_data", ".index.json")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What was written. files: relative names. linked: those that are hard links to the source's.

    left_out: files of the source that were not taken along, since they are weights in another format.
    """

    files: tuple[str, ...]
    linked: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(slots=True)
class _Meter:
    """Bytes done so far, told to whoever asked."""

    total: int
    tell: Callable[[int, int], None] | None
    done: int = 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)


def check_new(out: Path) -> None:
    """Raise ValueError where ``out`` exists, FileNotFoundError where there is no folder to hold it."""
    if os.path.lexists(out):
        raise ValueError(f"{out}: already there; give a name that is free")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(out.absolute().parent))


def write_folder(
    source: Path,
    out: Path,
    config: Mapping[str, Any],
    *,
    length: int,
    section: str,
    edits: Mapping[str, Edit] | None = None,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write ``source`` to ``out`` with ``config`` for its config.json.

    length: tokens; a smaller model_max_length of the tokenizer is raised to it. section: Markdown for the
    model card, under "Extended context". edits: what to do to which tensor. link: shards without any are
    hard links where the file system has them. progress gets (bytes done, bytes in all).
    Raises ValueError where ``out`` exists or the weights are unusable, OSError where the disk is too small
    or fills up; nothing is left behind then.
    """
    check_new(out)
    if source.resolve() in out.resolve().parents:
        raise ValueError(f"{out}: lies inside {source}, which is to be copied; give a name outside")
    found = checkpoint(source)
    files, left_out = _others(source, found)
    places = found.tensors()
    changed = {places[name].shard for name in edits or {}}
    _check_space([*files, *_to_copy(found, changed, out, link)], out)
    sizes = sum(path.stat().st_size for path in (*found.files, *files))
    meter = _Meter(total=sizes, tell=progress)
    partial = beside(out.absolute())
    try:
        partial.mkdir()
        linked = _write_weights(found, partial, edits or {}, link, meter)
        for path in files:
            target = partial / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            place(path, target, progress=meter)
        _write_texts(partial, config, length, section)
        partial.rename(out)
    finally:
        # Gone already when all went well; else whatever stopped it, nothing is left.
        shutil.rmtree(partial, ignore_errors=True)
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    return Written(files=tuple(written), linked=linked, left_out=left_out)


def _others(source: Path, found: Checkpoint) -> tuple[list[Path], tuple[str, ...]]:
    """The files beside the weights, and the names of weights in other formats."""
    files: list[Path] = []
    left_out: list[str] = []
    for folder, inner, names in os.walk(source):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "__pycache__")
        for path in (Path(folder) / name for name in sorted(names)):
            if path in found.files or path.name.endswith(".partial") or not path.is_file():
                continue
            if path.name.lower().endswith(_OTHER_WEIGHTS):
                left_out.append(str(path.relative_to(source)))
            else:
                files.append(path)
    return files, tuple(left_out)


def _to_copy(found: Checkpoint, changed: set[Path], out: Path, link: bool) -> list[Path]:
    """The files of the checkpoint that cannot be hard links."""
    device = out.absolute().parent.stat().st_dev
    return [p for p in found.files if not link or p in changed or p.resolve().stat().st_dev != device]


def _check_space(needed: list[Path], out: Path) -> None:
    parent = out.absolute().parent
    size, free = sum(path.stat().st_size for path in needed), shutil.disk_usage(parent).free
    if size > free:
        message = f"No space left: {size / 1e6:,.1f} MB to write, {free / 1e6:,.1f} MB free"
        raise OSError(errno.ENOSPC, message, str(parent))


def _write_weights(
    found: Checkpoint, partial: Path, edits: Mapping[str, Edit], link: bool, meter: _Meter
) -> tuple[str, ...]:
    linked = []
    for path in found.files:
        target = partial / path.name
        own = {} if path == found.index else {n: edits[n] for n in read_header(path) if n in edits}
        if own:
            patch(path, target, own, progress=meter)
        elif place(path, target, link=link, progress=meter):
            linked.append(path.name)
    return tuple(linked)


def _write_texts(partial: Path, config: Mapping[str, Any], length: int, section: str) -> None:
    _write_json(partial / CONFIG, config)
    card = partial / CARD
    card.write_text(with_section(_text(card) if card.is_file() else None, section), encoding="utf-8")
    tokenizer = partial / TOKENIZER
    if tokenizer.is_file():
        given = _json(tokenizer)
        limit = given.get("model_max_length")
        if isinstance(limit, int | float) and limit < length:
            _write_json(tokenizer, {**given, "model_max_length": length})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name}: not UTF-8 text") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise ValueError(f"{path.name}: cannot be read as JSON") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path.name}: must hold a JSON object")
    return given


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_section(card: str | None, section: str) -> str:
    """The model card with ``section`` under "## Extended context", in place of an earlier one.

    Front matter and everything else stay; None stands for a folder without a card.
    """
    text = f"{HEADING}\n\n{section.strip()}\n"
    if card is None or not card.strip():
        return text
    earlier = re.compile(rf"^{re.escape(HEADING)}[ \t]*\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if earlier.search(card):
        return earlier.sub(lambda _: text + "\n", card, count=1).rstrip("\n") + "\n"
    return f"{card.rstrip()}\n\n{text}"
