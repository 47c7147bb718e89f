"""Run GGUF files in llama.cpp, all in float32. Stand-alone: it knows no resrope.

    python -I llamacpp_run.py jobs.json done.jsonl

jobs and lines as in transformers_run.py, "model" being a GGUF file. The key-value cache is float32 and flash
attention off, because llama.cpp's defaults round both to float16.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


class Engine:
    """One loaded file with room for ``length`` tokens."""

    def __init__(self, path: str, length: int) -> None:
        loading = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), loading)
        if not self._model:
            raise ValueError("llama.cpp does not load this file")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = -(-length // 256) * 256
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS", "2"))
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError("llama.cpp makes no context for this file")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def logits(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Logits [tokens, vocabulary] of the tokens at positions start, start + 1, …, behind those before."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            status = llama_cpp.llama_decode(self._context, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status:
            raise ValueError(f"llama_decode returned {status}")
        flat = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(flat, (len(tokens), self._vocabulary)).copy()

    def close(self) -> None:
        """Free what C allocated."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def run(job: dict[str, Any]) -> list[int]:
    """Write the job's logits; the greedily generated token ids where it asks for some."""
    start, wanted = job.get("start", 0), job.get("generate", 0)
    engine = Engine(job["model"], len(job["tokens"]) + wanted)
    try:
        logits = engine.logits(job["tokens"], start)
        if job.get("out"):
            np.save(job["out"], logits)
        generated: list[int] = []
        for i in range(wanted):
            generated.append(int(logits[-1].argmax()))
            if i + 1 < wanted:
                logits = engine.logits(generated[-1:], start + len(job["tokens"]) + i)
        return generated
    finally:
        engine.close()


def main(jobs_file: str, done_file: str) -> None:
    """Every job in turn."""
    versions = {"llama-cpp-python": llama_cpp.__version__}
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    with Path(done_file).open("a", encoding="utf-8") as done:
        for job in jobs:
            began, line = time.perf_counter(), {"id": job["id"], "versions": versions}
            try:
                line["generated"] = run(job)
            except Exception as error:
                line["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            line["seconds"] = round(time.perf_counter() - began, 3)
            done.write(json.dumps(line) + "\n")
            done.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
