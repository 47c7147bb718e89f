"""Where and with what a record was made."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import numpy as np
import torch

# Variables, by how they begin, that choose the kernels of matrix products: others round otherwise, and a
# training that rounds otherwise ends elsewhere.
_KERNELS = ("LD_PRELOAD", "ATEN_CPU_CAPABILITY", "MKL_", "DNNL_", "ONEDNN_", "CUBLAS_", "NVIDIA_TF32_")


def provenance() -> dict[str, str | None]:
    """Versions, machine, today's date, and the commit where resrope runs from a git checkout.

    commit: the hash, with "+changes" behind it if the checkout differed from it; None outside a checkout. It
    is that of this process's first call: call before the work, so that it is that of the code that is loaded.
    kernels: what was set in the environment that chooses them; None where nothing was.
    """
    return _of_the_process() | {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d")}


@cache
def _of_the_process() -> dict[str, str | None]:
    from resrope import __version__

    return {
        "resrope": __version__,
        "commit": commit(Path(__file__).parent),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "processor": processor(),
        "kernels": kernels(),
    }


def kernels() -> str | None:
    """``LD_PRELOAD=libx.so MKL_CBWR=AVX2``: what chooses kernels, files without their folders."""
    chosen = ((name, value) for name, value in sorted(os.environ.items()) if name.startswith(_KERNELS))
    return " ".join(f"{name}={Path(value).name}" for name, value in chosen if value) or None


def commit(folder: Path) -> str | None:
    """The commit that the code in ``folder`` is at; None where git or a checkout of ours is not there."""
    tracked = _git(folder, "ls-files", "--error-unmatch", ".")
    head = _git(folder, "rev-parse", "HEAD")
    if not tracked or not head:
        return None
    return head + ("+changes" if _git(folder, "status", "--porcelain", ".") else "")


def processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
