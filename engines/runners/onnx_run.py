"""Export written folders with torch.onnx and run the file in ONNX Runtime. Stand-alone: it knows no resrope.

    python -I onnx_run.py jobs.json done.jsonl

jobs and lines as in transformers_run.py. The export sees 32 tokens; the file runs with the job's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

_EXPORTED = 32


class _Logits(torch.nn.Module):
    """Token ids and positions to logits, nothing else."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """[1, tokens] twice to [1, tokens, vocabulary]."""
        return self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits


def export(folder: str, path: Path) -> None:
    """The folder's model as an ONNX file with a dynamic number of tokens."""
    name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = getattr(transformers, name).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    example = torch.arange(_EXPORTED)[None]
    length = torch.export.Dim("length", min=2, max=1 << 17)
    torch.onnx.export(
        _Logits(model.eval()),
        (example % 8, example),
        str(path),
        dynamo=True,
        input_names=["input_ids", "position_ids"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": {1: length}, "position_ids": {1: length}},
    )


def run(job: dict[str, Any]) -> None:
    """Export and write the logits of one job."""
    start = job.get("start", 0)
    ids = np.asarray([job["tokens"]], dtype=np.int64)
    positions = np.arange(start, start + ids.shape[1], dtype=np.int64)[None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(job["model"], path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"input_ids": ids, "position_ids": positions})
    np.save(job["out"], logits[0].astype(np.float32))


def main(jobs_file: str, done_file: str) -> None:
    """Every job in turn."""
    versions = {
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
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
