"""`resrope.apply`, `save` and a stock reload in one version of transformers, against the reference's logits.

    python applied_run.py jobs.json done.jsonl

jobs: [{"id", "model": unscaled folder, "method", "given", "tokens", "attention", "reference": .npy, "out":
folder to write}, …]; per job one line of JSON. The only runner that imports resrope: it is what is run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import resrope


def _logits(model: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float())


def _load(folder: str, attention: str | None) -> Any:
    # Version 4 drops it from some configs, hence the file.
    name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    cls = getattr(transformers, name)
    return cls.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Largest differences of a logit: applied from the reference, a stock reload from what was applied."""
    model, tokens = _load(job["model"], job["attention"]), job["tokens"]
    resrope.apply(model, job["method"], **job["given"])
    exact = float(np.abs(_logits(model, tokens) - np.load(job["reference"])).max())
    resrope.apply(model, job["method"], exact=False, **job["given"])
    stock = _logits(model, tokens)
    try:
        resrope.save(model, job["out"])
    except ValueError as error:
        return {"max_difference": exact, "save": str(error)}
    reloaded = _logits(_load(job["out"], job["attention"]), tokens)
    return {"max_difference": exact, "reloaded": float(np.abs(reloaded - stock).max())}


def main(jobs_file: str, done_file: str) -> None:
    """Every job in turn."""
    transformers.logging.set_verbosity_error()
    with Path(done_file).open("a", encoding="utf-8") as done:
        for job in json.loads(Path(jobs_file).read_text(encoding="utf-8")):
            began = time.perf_counter()
            try:
                line = run(job)
            except Exception as error:
                line = {"error": f"{type(error).__name__}: {error}"}
            line |= {"id": job["id"], "versions": {"transformers": transformers.__version__}}
            done.write(json.dumps({**line, "seconds": round(time.perf_counter() - began, 3)}) + "\n")
            done.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
