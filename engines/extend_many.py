"""Run many `resrope` command lines in one process, because importing torch takes longer than writing.

    python extend_many.py jobs.json done.jsonl

jobs: [{"id": name, "arguments": [...]}, …], each with --json; per job one line of JSON: id, exit code,
standard error, the caveat that extend told, seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from resrope.cli import main as resrope


def run(arguments: list[str]) -> dict[str, Any]:
    """One command line: its exit code, what it said on standard error, and its caveat."""
    said, report = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(report):
        try:
            resrope(arguments)
        except SystemExit as done:
            code = done.code or 0
        except Exception:
            code = 1
            said.write(traceback.format_exc())
    caveat = json.loads(report.getvalue())["caveat"] if code == 0 else None
    return {"code": code, "said": said.getvalue(), "caveat": caveat}


def main(jobs_file: str, done_file: str) -> None:
    """Every job in turn."""
    with Path(done_file).open("a", encoding="utf-8") as done:
        for job in json.loads(Path(jobs_file).read_text(encoding="utf-8")):
            began = time.perf_counter()
            line = {"id": job["id"], **run(job["arguments"])}
            done.write(json.dumps({**line, "seconds": round(time.perf_counter() - began, 3)}) + "\n")
            done.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
