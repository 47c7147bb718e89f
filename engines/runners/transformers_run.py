"""Run written folders in transformers 4 or 5 as their users do. Stand-alone: it knows no resrope.

    python -I transformers_run.py jobs.json done.jsonl

jobs: [{"id": name, "model": folder, "tokens": [ids], "start": first position, "generate": how many,
"attention": implementation, "out": file.npy}, …]; all but id, model and tokens may be left out. Logits
[tokens, vocabulary] go to "out", and per job one line of JSON to done.jsonl: seconds, error, generated.
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


def load(folder: str, attention: str | None) -> Any:
    """The model that the folder's config names, in float32."""
    name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return (
        getattr(transformers, name)
        .from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
        .eval()
    )


def run(model: Any, job: dict[str, Any]) -> list[int]:
    """Write the job's logits; the greedily generated token ids where it asks for some."""
    ids = torch.tensor([job["tokens"]])
    given: dict[str, Any] = {}
    # Only a chunk that starts elsewhere needs positions: a user gives none.
    if job.get("start"):
        given["position_ids"] = torch.arange(job["start"], job["start"] + ids.shape[1])[None]
    if job.get("out"):
        np.save(job["out"], model(input_ids=ids, use_cache=False, **given).logits[0].float().numpy())
    if not job.get("generate"):
        return []
    model.generation_config.eos_token_id = None  # as many tokens as asked, in every engine
    mask = torch.ones_like(ids)
    done = model.generate(ids, attention_mask=mask, max_new_tokens=job["generate"], do_sample=False)
    return [int(token) for token in done[0, ids.shape[1] :]]


def main(jobs_file: str, done_file: str) -> None:
    """Every job, models kept while the next job wants the same."""
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    held: tuple[str, Any] = ("", None)
    with Path(done_file).open("a", encoding="utf-8") as done, torch.no_grad():
        for job in jobs:
            began, line = time.perf_counter(), {"id": job["id"], "versions": versions}
            try:
                held = (
                    held
                    if held[0] == job["model"]
                    else (job["model"], load(job["model"], job.get("attention")))
                )
                line["generated"] = run(held[1], job)
            except Exception as error:
                line["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            line["seconds"] = round(time.perf_counter() - began, 3)
            done.write(json.dumps(line) + "\n")
            done.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
