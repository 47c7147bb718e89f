"""Rows of JSON lines, plain or compressed, and of Parquet: one at a time, whatever the size of the file."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from resrope.longtext.extras import extra

# Where a row's text is looked for when no column is asked for, in this order.
COLUMNS = ("text", "input", "report", "content", "document")
_CHUNK = 1 << 20

# (number from 1, its fields)
Row = tuple[int, dict[str, Any]]


def column_of(names: Collection[str], asked: str | None, where: str) -> str:
    """The column that holds the text: the one asked for, else the first of ``COLUMNS``.

    Raises ValueError, beginning with ``where``, when it is not among ``names``.
    """
    wanted = COLUMNS if asked is None else (asked,)
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise ValueError(
            f"{where}: the text must be under {' or '.join(wanted)}, "
            f"but there is only {', '.join(names) or 'nothing'}"
        )
    return found


def decoded(data: bytes, file: Path, offset: int = 0) -> str:
    """The UTF-8 text of ``data``, which starts at byte ``offset`` of the file; a byte order mark is dropped.

    Raises ValueError that names the first byte which is not UTF-8.
    """
    mark = len(codecs.BOM_UTF8) if offset == 0 and data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[mark:].decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: must be UTF-8, but byte {offset + mark + error.start} is not") from None


def json_rows(file: Path) -> Iterator[Row]:
    """Line number and object of every line that is not blank; .zst is decompressed on the way.

    Raises ValueError for a line that is no JSON object and for a file that ends in the middle.
    """
    offset = 0
    for number, raw in enumerate(_lines(file), start=1):
        line = decoded(raw, file, offset)
        offset += len(raw)
        if line.strip():
            yield number, _object(line, f"{file}: line {number}")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(row).__name__}")
    return row


def parquet_rows(file: Path, column: str | None) -> Iterator[Row]:
    """Row number and the text's column alone, see ``column_of``. Raises ValueError for a damaged file."""
    arrow, parquet = (extra(name, file.suffix) for name in ("pyarrow", "pyarrow.parquet"))
    try:
        with parquet.ParquetFile(file) as table:
            chosen = column_of(table.schema_arrow.names, column, str(file))
            batches = table.iter_batches(batch_size=64, columns=[chosen])
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: cannot be read as Parquet: {' '.join(str(error).split())}") from None


def _lines(file: Path) -> Iterator[bytes]:
    if file.suffix.lower() == ".zst":
        yield from _split(_decompressed(file))
        return
    with file.open("rb") as lines:
        yield from lines


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends; a chunk may hold many of them, or a part of one."""
    rest: list[bytes] = []
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*rest, line, b"\n"])
            rest = []
        rest.append(last)
    if any(rest):
        yield b"".join(rest)


def _decompressed(file: Path) -> Iterator[bytes]:
    zstandard = extra("zstandard", file.suffix)
    frame: Any = None
    try:
        with file.open("rb") as handle:
            while data := handle.read(_CHUNK):
                while data:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    yield frame.decompress(data)
                    data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"{file}: cannot be read as zstd: {error}") from None
    # The library takes the end of a file inside a frame for the end of the data.
    if frame is not None:
        raise ValueError(f"{file}: ends in the middle; it was not copied or downloaded whole")
