"""Exact cos/sin tables against the stock float32 outer product + cos + sin: time, memory, error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import mpmath
import torch
from torch import Tensor

import resrope
from resrope.rotary import cos_sin
from timing import ratio, times

POSITIONS = 131_072
ERROR_AT = (4_096, 32_768, 131_072, 1_048_576, 2**31 - 1)
PLAIN = resrope.frequencies(resrope.RopeSpec(head_dim=128))
RESONANT = resrope.frequencies(resrope.RopeSpec(head_dim=128, resonance=True))


def stock(table: resrope.Frequencies, positions: Tensor) -> tuple[Tensor, Tensor]:
    """What every engine does: float32 positions times float32 frequencies."""
    angles = torch.outer(positions.float(), torch.tensor(table.inv_freq, dtype=torch.float32))
    return angles.cos(), angles.sin()


def builders() -> dict[str, Callable[[], object]]:
    """The three peers on the same positions."""
    positions = torch.arange(POSITIONS)
    return {
        "stock": lambda: stock(PLAIN, positions),
        "plain": lambda: cos_sin(PLAIN, positions),
        "resonant": lambda: cos_sin(RESONANT, positions),
    }


def measure(rounds: int = 15) -> dict[str, Any]:
    """Ratios of time and memory (goal: time at most 1.5, memory at most 1), and the errors."""
    found = times(builders(), rounds)
    memory = {name: _peak_memory(name) for name in found}
    return {
        "positions": POSITIONS,
        "features": len(PLAIN.inv_freq),
        "seconds": {name: median(values) for name, values in found.items()},
        "time_ratio": {n: ratio(found[n], found["stock"]) for n in ("plain", "resonant")},
        "peak_memory_mib": memory,
        "memory_ratio": {n: memory[n] / memory["stock"] for n in ("plain", "resonant")},
        "max_cos_error": {str(p): _errors(p) for p in ERROR_AT},
    }


def _errors(end: int) -> dict[str, float]:
    """Largest error of cos over the 64 features and the 256 positions before ``end``."""
    positions = torch.arange(end - 256, end)
    with mpmath.workdps(50):
        exact = torch.tensor(
            [[float(mpmath.cos(m * mpmath.mpf(f))) for f in PLAIN.inv_freq] for m in positions.tolist()],
            dtype=torch.float64,
        )
    made = {"stock": stock(PLAIN, positions)[0], "resrope": cos_sin(PLAIN, positions)[0]}
    errors = {name: float((cos.double() - exact).abs().max()) for name, cos in made.items()}
    repeat = stock(RESONANT, positions)[0] - cos_sin(RESONANT, positions)[0]
    return errors | {"stock_on_resonant": float(repeat.abs().max())}


def _peak_memory(name: str) -> float:
    """MiB that a fresh process grows by while it builds one pair of tables."""
    code = f"import tables; tables.print_growth({name!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def print_growth(name: str) -> None:
    """Run in a fresh process by ``measure``: MiB of resident memory that building one pair of tables adds."""
    build = builders()[name]
    cos_sin(PLAIN, torch.arange(4096))  # first use loads kernels and starts threads
    stock(PLAIN, torch.arange(4096))
    before = _resident_peak()
    build()
    print((_resident_peak() - before) / 1024)


def _resident_peak() -> int:
    """KiB; from /proc, since getrusage's peak is inherited from the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
