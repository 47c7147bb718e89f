"""Data sets on the Hugging Face hub, streamed: a source's spelling, and its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from urllib.parse import parse_qsl

from resrope.longtext.extras import extra
from resrope.longtext.rows import Row

PREFIX = "hub:"
# The documents of YaRN's evaluation (arXiv 2309.00071), as Parquet: `datasets` 4 and later refuse the
# loading scripts of the sets that they come from. The token ids beside them are not used.
NAMED = {
    "govreport": "hub:emozilla/govreport-test-tokenized?column=input",
    "proof-pile": "hub:emozilla/proofpile-test-tokenized?column=text",
    "pg19": "hub:emozilla/pg19-test?column=text",
    # About 100 million tokens of books, what the paper trains on (Appendix C.2).
    "pg19-train": "hub:emozilla/pg19?split=train&column=text&rows=1100",
}
_ROWS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSet:
    """Which rows of a hub data set to read.

    source: as it was spelled, without ``hub:``. path: ``owner/name``. split: where left out, the only one,
    or ``test`` among several. rows: how many to read, from the first on.
    """

    source: str
    path: str
    config: str | None = None
    split: str | None = None
    column: str | None = None
    rows: int = _ROWS


def is_hub(source: str) -> bool:
    """Whether ``source`` names a hub data set, by one of the short names or by ``hub:``."""
    return source in NAMED or source.startswith(PREFIX)


def parse(source: str) -> HubSet:
    """``hub:owner/name?config=…&split=…&column=…&rows=…``, every option left out at will, or a short name.

    >>> parse("hub:emozilla/pg19?split=validation&rows=10").rows
    10

    Raises ValueError for any other spelling.
    """
    path, _, query = NAMED.get(source, source).removeprefix(PREFIX).partition("?")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        rows = int(options.pop("rows", _ROWS))
        if rows < 1 or path.count("/") > 1 or "" in (path, *options.values()):
            raise ValueError
        return HubSet(source=source.removeprefix(PREFIX), path=path, rows=rows, **options)
    except (TypeError, ValueError):
        raise ValueError(
            f"a hub data set is hub:owner/name?config=…&split=…&column=…&rows=… (rows >= 1), got {source!r}"
        ) from None


def rows_of(one: HubSet) -> Iterator[Row]:
    """The first ``one.rows`` rows; the rest is not downloaded.

    Raises ImportError without `datasets`, ValueError for what the hub does not have or does not deliver.
    """
    datasets = extra("datasets", "a hub data set")
    with _one_line(one):
        opened = datasets.load_dataset(one.path, one.config, streaming=True)
    split = _split(one, list(opened))
    with _one_line(one):
        chosen = opened[split] if one.column is None else opened[split].select_columns([one.column])
        yield from enumerate(islice(chosen, one.rows), start=1)


def revision_of(one: HubSet) -> str:
    """The commit of the data set on the hub. Raises ImportError and ValueError like ``rows_of``."""
    api = extra("huggingface_hub", "a hub data set").HfApi()
    with _one_line(one):
        return str(api.dataset_info(one.path).sha)


def _split(one: HubSet, splits: list[str]) -> str:
    wanted = one.split or ("test" if len(splits) > 1 else splits[0])
    if wanted not in splits:
        raise ValueError(f"{one.source}: split must be among {', '.join(splits)}, got {wanted!r}")
    return wanted


@contextmanager
def _one_line(one: HubSet) -> Iterator[None]:
    """Whatever `datasets` and the network raise, as one ValueError that names the data set."""
    try:
        yield
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        first = " ".join(str(error).split()) or repr(error)
        raise ValueError(
            f"{one.source}: not read from the hub: {type(error).__name__}: {first:.300}"
        ) from error
