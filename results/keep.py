"""Keep the report of a finished run: `python results/keep.py runs/quick results/quick`.

Copies the report, the pictures and every cell's record (one file), and writes provenance.json: the commit
that ran it, the command, the machine, the seconds. Run it from the checkout that made the run.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

FILES = ("report.md", "report.json", "report.html", "training.png", "positions.png", "run.json")


def main(run: Path, out: Path) -> None:
    """Copy and describe."""
    if git("status", "--porcelain", "--untracked-files=no"):
        sys.exit("the checkout has uncommitted changes: no commit describes this run")
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(run / name, out / name)
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(run.glob("cells/*/record.json"))]
    (out / "records.json").write_text(json.dumps(records) + "\n", encoding="utf-8")
    provenance = describe(json.loads((run / "run.json").read_text(encoding="utf-8"))["preset"], records)
    (out / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def describe(preset: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Commit, command, machine, seconds."""
    seeds = sorted({r["cell"]["seed"] for r in records})
    chosen = ",".join(map(str, seeds))
    seconds = {"-".join(str(v) for v in r["cell"].values()): r["made"]["seconds"] for r in records}
    return {
        "commit": git("rev-parse", "HEAD"),
        "command": f"resrope posgen run --preset {preset} --seeds {chosen} --out runs/{preset}",
        "seeds": seeds,
        "date": date.today().isoformat(),
        "machine": {k: v for k, v in records[0]["made"].items() if k != "seconds"}
        | {"processor": processor()},
        "seconds_per_cell": seconds,
        "seconds_in_all": round(sum(seconds.values()), 1),
    }


def processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def git(*arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
