"""Documents to measure on: text files, rows of JSON lines and Parquet, folders, hub data sets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from resrope.longtext import hub
from resrope.longtext.rows import Row, column_of, decoded, json_rows, parquet_rows

_PLAIN = (".txt", ".md")
_LINES = (".jsonl", ".jsonl.zst", ".json.zst")
_T = TypeVar("_T")
SUFFIXES = (*_PLAIN, *_LINES, ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One document. name: unique among those read together: ``emma.txt``, ``books.jsonl:17`` for row 17."""

    name: str
    text: str


def read_texts(sources: Sequence[str], *, column: str | None = None) -> list[Text]:
    """The documents of ``sources``, in that order, as ``stream_texts`` reads them."""
    return list(stream_texts(sources, column=column))


def stream_texts(sources: Sequence[str], *, column: str | None = None) -> Iterator[Text]:
    """The documents of ``sources`` one by one, in that order.

    A source is a .txt or .md file (one document), a .jsonl, .jsonl.zst, .json.zst or .parquet file (one
    document a row), a folder with such files (by name, without folders below it), or a hub data set as
    ``hub.parse`` spells it; what exists here goes before a name of the same spelling. column: where a row's
    text is, by default the first of ``rows.COLUMNS`` that it has; one in a hub set's spelling goes before it.

    Texts are UTF-8 with or without a byte order mark, line ends become ``\\n``, and rows of nothing but white
    space are no documents. Raises ValueError, in one line, for what is missing, given twice, damaged, in
    another format or without a document; ImportError without the package that a format needs.
    """
    files = local_files(sources)
    if (
        column is not None
        and files
        and all(_suffix(f) in _PLAIN for f in files)
        and all(map(_local, sources))
    ):
        raise ValueError(f"a column is of .jsonl and .parquet files and of hub data sets, got {column!r}")
    for source in sources:
        if _local(source):
            for file in _inside(Path(source)):
                yield from _some(file, _read(file, files[file], column))
        else:
            one = hub.parse(source)
            yield from _some(source, _documents(one.source, source, hub.rows_of(one), one.column or column))


def sample(texts: Sequence[_T], count: int, seed: int) -> list[_T]:
    """``count`` of ``texts`` drawn without replacement, in their old order; the same for the same seed.

    Of local files that is a sample of all documents. A hub data set was read only as far as its ``rows``, so
    there it is a sample of its first rows. Raises ValueError when there are fewer than ``count``.
    """
    if not 0 < count <= len(texts):
        raise ValueError(f"documents to draw must be from 1 to the {len(texts)} there are, got {count}")
    return [texts[i] for i in sorted(random.Random(seed).sample(range(len(texts)), count))]


def _local(source: str) -> bool:
    return source != "" and Path(source).exists()


def local_files(sources: Sequence[str]) -> dict[Path, str]:
    """Every local file of ``sources`` with its name. Raises ValueError for what cannot be a source."""
    named = [source for source in sources if not _local(source)]
    unknown = next((source for source in named if not hub.is_hub(source)), None)
    if unknown is not None:
        raise ValueError(
            f"{unknown!r}: no such file or folder, and no data set: {', '.join(hub.NAMED)}, hub:owner/name"
        )
    local = [file for source in sources if _local(source) for file in _inside(Path(source))]
    names = [str(file.resolve()) for file in local] + named
    # A set has two spellings: its short name, and what that stands for.
    given = [*names[: len(local)], *(replace(hub.parse(source), source="") for source in named)]
    twice = next((name for i, name in enumerate(names) if given[i] in given[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice")
    return {file: _name(file, local) for file in local}


def _inside(path: Path) -> list[Path]:
    """The file itself, or the files of a folder that can be read."""
    if not path.is_dir():
        if not path.name.lower().endswith(SUFFIXES):
            raise ValueError(f"{path}: texts are {', '.join(SUFFIXES)} files, or folders with such files")
        return [path]
    files = [f for f in sorted(path.iterdir()) if f.is_file() and f.name.lower().endswith(SUFFIXES)]
    if not files:
        raise ValueError(f"{path}: the folder holds no {', '.join(SUFFIXES)} file")
    return files


def _suffix(file: Path) -> str:
    return next(s for s in SUFFIXES if file.name.lower().endswith(s))


def _name(file: Path, files: Iterable[Path]) -> str:
    """The shortest end of the path that no other file shares, most often the file's own name."""
    parts = file.absolute().parts
    others = [other.absolute().parts for other in files if other != file]
    depth = next(d for d in range(1, len(parts) + 1) if all(o[-d:] != parts[-d:] for o in others))
    return "/".join(parts[-depth:])


def _read(file: Path, name: str, column: str | None) -> Iterator[Text]:
    suffix = _suffix(file)
    if suffix in _PLAIN:
        text = decoded(file.read_bytes(), file).replace("\r\n", "\n")
        if text.strip():
            yield Text(name=name, text=text)
    else:
        rows = json_rows(file) if suffix in _LINES else parquet_rows(file, column)
        yield from _documents(name, str(file), rows, column)


def _documents(name: str, source: str, rows: Iterable[Row], column: str | None) -> Iterator[Text]:
    for number, row in rows:
        where = f"{source}: row {number}"
        chosen = column_of(row, column, where)
        text = row[chosen]
        if not isinstance(text, str):
            raise ValueError(f"{where}: {chosen} must be text, got {type(text).__name__}")
        if text.strip():
            yield Text(name=f"{name}:{number}", text=text.replace("\r\n", "\n"))


def _some(where: str | Path, texts: Iterator[Text]) -> Iterator[Text]:
    first = next(texts, None)
    if first is None:
        raise ValueError(f"{where}: holds no text")
    yield first
    yield from texts
