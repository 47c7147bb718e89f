"""Files that appear whole or not at all; standard library only."""

from __future__ import annotations

import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: a temporary file beside it, flushed to disk, then renamed over it.

    A reader, or a run after a kill at any moment, sees the old file or the new one. Text is UTF-8.
    Raises OSError (a full disk, no permission) and then leaves `path` as it was.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
    temporary = beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def readable(folder: Path) -> None:
    """Give every file below ``folder`` the mode of a new file; some writers leave theirs to the owner."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def beside(path: Path) -> Path:
    """A fresh hidden name in the same folder, so that a rename never crosses file systems."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def remove_leftovers(folder: Path, *, name: str = "*", age: float = 0.0) -> None:
    """Delete what processes that were killed in the middle of ``atomic_write`` left in ``folder``.

    name: of the file that was written; age: seconds for which it must have lain there. Where others may be
    writing, it may be theirs.
    """
    for leftover in folder.glob(f".{name}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime >= age:
                leftover.unlink()
