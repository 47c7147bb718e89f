"""Losses that were measured, on disk: what one process finished no other computes again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resrope.files import atomic_write, remove_leftovers
from resrope.longtext.forward import Losses
from resrope.spec import Frequencies

# Seconds after which a file half written is nobody's: several processes may share a folder.
_ABANDONED = 3600.0


class Records:
    """A folder of JSON objects, each under the hash of everything that decides it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, age=_ABANDONED)

    def get(self, key: str, *fields: str) -> dict[str, Any] | None:
        """What was kept, None where nothing was. Raises ValueError where it is damaged or lacks a field."""
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return {**kept, **{field: kept[field] for field in fields}}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; remove it and run again: {error!r}") from None

    def put(self, key: str, made: Mapping[str, Any]) -> None:
        """Keep ``made``, JSON types."""
        atomic_write(self.folder / f"{key}.json", json.dumps(made, indent=1) + "\n")


class Store:
    """A folder of float32 losses, each under the hash of everything that decides them.

    The key holds the model (``Subject.identity``), the tables bit by bit, the tokens and how they are cut
    into windows; the record beside it says who made it. Losses of a longer text serve a shorter one: they
    are a prefix (causality), as long as they come from one forward.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Records(folder)

    def get(self, key: str, count: int) -> Losses | None:
        """The first ``count`` losses under ``key``; None where there are fewer."""
        path = self.folder / f"{key}.npy"
        if not path.is_file():
            return None
        try:
            kept: Losses = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged; remove it and run again: {error}") from None
        if not np.isfinite(kept).all():
            raise ValueError(f"{path} is damaged; remove it and run again: a loss is not a number")
        return kept[:count] if len(kept) >= count else None

    def put(self, key: str, losses: Losses, made: Mapping[str, Any]) -> None:
        """Keep ``losses`` and, beside them, how they were made."""
        data = io.BytesIO()
        np.save(data, losses, allow_pickle=False)
        self._records.put(key, made)
        atomic_write(self.folder / f"{key}.npy", data.getvalue())

    def made(self, key: str) -> dict[str, Any]:
        """How the losses under ``key`` were made. Raises ValueError where that is missing or damaged."""
        kept = self._records.get(key, "seconds", "commit")
        if kept is None:
            raise ValueError(f"{self.folder / key}.json is missing; remove {key}.npy and run again")
        return kept


def key_of(
    identity: str, tables: Mapping[str, Frequencies], tokens: Sequence[int], protocol: str = "prefix"
) -> str:
    """The name of the losses of ``tokens`` (the whole text, however much of it is read).

    Equal for the same numbers only: 32 hexadecimal digits of a SHA-256.
    """
    made = {k: [[f.hex() for f in t.inv_freq], t.attention_factor.hex()] for k, t in sorted(tables.items())}
    parts = (identity, json.dumps(made), protocol, np.asarray(tokens, dtype=np.int64).tobytes().hex())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
