"""All benchmarks, one after the other: `make bench`. Writes results.json and results.md beside this file.

Ratios are medians over rounds in which the peers take turns in one process; seconds are this machine's.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

import data
import gap
import step
import tables

HERE = Path(__file__).parent


def main() -> None:
    """Measure everything, print the table, write both files."""
    results: dict[str, Any] = {"machine": machine()}
    for name, measure in (
        ("tables", tables.measure),
        ("gap", gap.measure),
        ("data", data.measure),
        ("step", step.measure_all),
    ):
        print(f"{name} …", flush=True)
        results[name] = measure()
    text = markdown(results)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "results.md").write_text(text, encoding="utf-8")
    print(text)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    return {
        "commit": commit,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The table for people: what, against what, ratio, goal, met."""
    m = results["machine"]
    rows = [f"| {what} | {against} | {got} | {goal} |" for what, against, got, goal in _rows(results)]
    errors = [
        f"| {position} | {e['stock']:.1e} | {e['resrope']:.1e} | {e['stock_on_resonant']:.1e} |"
        for position, e in results["tables"]["max_cos_error"].items()
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"`make bench` at commit {m['commit'][:12]}, {m['date']}: {m['processor']}, "
            f"{m['processors']} processors, torch {m['torch']}, numpy {m['numpy']}, Python {m['python']}. "
            "All figures in results.json.",
            "",
            "| what | against | measured | goal |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "Largest error of cos over 64 features (head_dim 128, rope_theta 10000) and the 256 positions "
            "before each:",
            "",
            "| position | stock float32 | resrope | stock float32 on resonant wavelengths |",
            "| --- | --- | --- | --- |",
            *errors,
            "",
        ]
    )


def _rows(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    t, g, d, s = (results[name] for name in ("tables", "gap", "data", "step"))
    paper, quick = s["paper"], s["quick"]
    size = f"{t['positions']} positions × {t['features']} features"
    stock = "stock float32 outer product + cos + sin"
    slowest = min(d["tasks"].values(), key=lambda task: task["plain_loop_over_ours"])
    tight = min(task["tight_loop_over_ours"] for task in d["tasks"].values())
    rows = [
        (f"{name} cos/sin table, {size}: time", stock, f"{t['time_ratio'][name]:.2f}×", "≤ 1.5×")
        for name in ("resonant", "plain")
    ]
    return [
        *rows,
        ("the same: peak memory", stock, f"{max(t['memory_ratio'].values()):.2f}×", "≤ 1×"),
        ("feature gap, 4096 → 1048576, 64 features", "", f"{max(g['seconds'].values()):.2f} s", "< 2 s"),
        (
            "feature gap, 512 → 2048, 64 features",
            "numpy over all pairs",
            f"{g['brute_force_over_ours']:.0f}× faster",
            "",
        ),
        (
            f"PosGen sequences, {d['rows']} × {d['length']}, slowest task",
            "plain Python loop (one that is tightened by hand)",
            f"{slowest['plain_loop_over_ours']:.0f}× ({tight:.0f}×) faster",
            "≥ 100×",
        ),
        (
            "training step at the paper's size (128 × 65, dropout 0.1)",
            "transformers' T5 stack, eager (the same with our heap setting)",
            f"{paper['times_faster_than_t5']:.2f}× ({paper['times_faster_than_t5_kept_heap']:.2f}×) faster",
            "≥ 1.6×",
        ),
        (
            "the same: matrix-product rate",
            "the machine's own float32 rate",
            f"{100 * paper['share_of_product_rate']:.0f} %",
            "≥ 75 %",
        ),
        (
            "training step of preset quick (16 × 64), one thread",
            "the machine's own float32 rate",
            f"{100 * quick['share_of_product_rate']:.0f} % ({quick['step_ms']:.0f} ms)",
            "",
        ),
    ]


if __name__ == "__main__":
    main()
