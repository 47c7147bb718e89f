"""Run written folders in MLX-LM on the CPU as its users do. Stand-alone: it knows no resrope.

    python -I mlx_run.py jobs.json done.jsonl

jobs and lines as in transformers_run.py; MLX-LM has no position ids, so a job must start at 0.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def run(job: dict[str, Any]) -> None:
    """Write the logits of one job."""
    if job.get("start"):
        raise ValueError("MLX-LM takes no position ids")
    model, _ = load_model(Path(job["model"]))
    model.set_dtype(mx.float32)
    logits = model(mx.array([job["tokens"]]))[0].astype(mx.float32)
    np.save(job["out"], np.array(logits))


def main(jobs_file: str, done_file: str) -> None:
    """Every job in turn."""
    mx.set_default_device(mx.cpu)
    versions = {name: version(name) for name in ("mlx-lm", "mlx")}
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    with Path(done_file).open("a", encoding="utf-8") as done:
        for job in jobs:
            began, line = time.perf_counter(), {"id": job["id"], "versions": versions}
            try:
                run(job)
            except Exception as error:
                line["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            line["seconds"] = round(time.perf_counter() - began, 3)
            done.write(json.dumps(line) + "\n")
            done.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
