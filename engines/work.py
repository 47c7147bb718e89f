"""The engines, how they are started, and the work folder `runs/engines` that a second run goes on from."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases
import setup
from resrope.files import atomic_write

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / "runs" / "engines"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One engine: its environment and runner, and `resrope extend --engine` for it.

    most: the goal, at most this much; of: "max_difference" (logits), "kl" (nats) or "from_spelled" (logits,
    against the reference with the float32 frequencies that the config's own numbers give). Engines without an
    environment are derived (derive.py). architectures: those it is run on, all where None.
    """

    name: str
    extend: str
    most: float
    of: str = "max_difference"
    environment: str | None = None
    runner: str | None = None
    architectures: tuple[str, ...] | None = None

    def written(self, folder: Path) -> Path:
        """Where `resrope extend` writes below a case's folder."""
        return folder / ("model.gguf" if self.extend == "gguf" else self.extend)


ENGINES = {
    e.name: e
    for e in (
        Engine(
            name="transformers-5",
            extend="transformers",
            most=0.0,
            of="from_spelled",
            environment="tf5",
            runner="transformers_run.py",
        ),
        Engine(
            name="transformers-4",
            extend="transformers",
            most=0.0,
            of="from_spelled",
            environment="tf4",
            runner="transformers_run.py",
        ),
        Engine(
            name="llama.cpp",
            extend="gguf",
            most=1e-9,
            of="kl",
            environment="llamacpp",
            runner="llamacpp_run.py",
        ),
        Engine(name="mlx", extend="mlx", most=2e-4, environment="mlx", runner="mlx_run.py"),
        Engine(
            name="onnx",
            extend="transformers",
            most=1e-4,
            environment="onnx",
            runner="onnx_run.py",
            architectures=("llama",),
        ),
        Engine(name="vllm", extend="vllm", most=0.0, of="from_spelled"),
        Engine(name="sglang", extend="sglang", most=0.0, of="from_spelled"),
    )
}


def fingerprint() -> str:
    """A hash of every source file that a result depends on."""
    files = sorted([*(ROOT / "src").rglob("*.py"), *HERE.rglob("*.py")])
    # The report only lays out what was measured.
    text = b"\0".join(f.read_bytes() for f in files if f.name != "report.py")
    return hashlib.sha256(text + json.dumps(setup.PINS).encode()).hexdigest()[:16]


def kept(name: str, fresh: str) -> Any:
    """A record of an earlier run with the same code; None where there is none."""
    path = WORK / "records" / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record.get("record") if record.get("fingerprint") == fresh else None


def keep(name: str, fresh: str, record: Any) -> None:
    """Keep a finished record for the next run."""
    path = WORK / "records" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({"fingerprint": fresh, "record": record}, indent=1) + "\n")


def extend_each(jobs: Sequence[dict[str, Any]], advance: Callable[[], None]) -> dict[str, dict[str, Any]]:
    """Every job's `resrope` command line, by id: code, said, seconds."""
    return _each([sys.executable, str(HERE / "extend_many.py")], jobs, advance, own=True)


def apply_each(
    environment: str, jobs: Sequence[dict[str, Any]], advance: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Every job with `resrope` itself in an environment that does not hold it, by id."""
    command = [str(setup.python(environment)), str(HERE / "runners" / "applied_run.py")]
    return _each(command, jobs, advance, own=True)


def run_each(
    engine: Engine, jobs: Sequence[dict[str, Any]], advance: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Every job in the engine's own environment, by id: versions, seconds, error or generated."""
    assert engine.environment is not None
    assert engine.runner is not None
    # -I: nothing of this checkout, nor of the user's, can be imported.
    command = [str(setup.python(engine.environment)), "-I", str(HERE / "runners" / engine.runner)]
    return _each(command, jobs, advance)


def _each(
    command: list[str], jobs: Sequence[dict[str, Any]], advance: Callable[[], None], *, own: bool = False
) -> dict[str, dict[str, Any]]:
    """Run ``command`` on the jobs; where it dies, the job it died on fails and the rest goes on.

    own: it may import this checkout's resrope.
    """
    found: dict[str, dict[str, Any]] = {}
    rest = list(jobs)
    while rest:
        for line, ended in _lines(command, list(rest), own):
            if line is None:
                died = {"id": rest[0]["id"], "error": f"the engine's process ended: {ended}", "code": 1}
                line = {**died, "said": ended}
            found[line["id"]] = line
            rest.pop(0)
            advance()
    return found


def _lines(
    command: list[str], jobs: Sequence[dict[str, Any]], own: bool
) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """The lines that the process writes, as they come; None for the job on which it died."""
    WORK.mkdir(parents=True, exist_ok=True)
    jobs_file, done_file, log = WORK / "jobs.json", WORK / "done.jsonl", WORK / "log.txt"
    jobs_file.write_text(json.dumps(list(jobs)), encoding="utf-8")
    done_file.write_text("", encoding="utf-8")
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [*command, str(jobs_file), str(done_file)],
            stdout=said,
            stderr=said,
            env=_environment(own),
            cwd=WORK,
        )
        read = 0
        while True:
            ended = _wait(process)
            lines = done_file.read_text(encoding="utf-8").splitlines(keepends=True)
            for line in lines[read:]:
                if line.endswith("\n"):
                    read += 1
                    yield json.loads(line), ""
            if ended is not None:
                break
    if read < len(jobs):
        tail = log.read_text(encoding="utf-8", errors="replace").split("\n")[-3:]
        yield None, " ".join(f"status {process.returncode} {' '.join(tail)}".split())


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return None


def _environment(own: bool) -> dict[str, str]:
    """This one, offline, and without what would let an engine import this checkout unless it is its own."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    path = {"PYTHONPATH": str(ROOT / "src")} if own else {}
    return {**{name: str(threads()) for name in _THREADS}, **kept, **quiet, **path}


def within(message: str) -> str:
    """One line of at most 200 characters, without the path of this checkout."""
    line = " ".join(message.replace(f"{WORK}/", "").replace(f"{ROOT}/", "").split())
    return line if len(line) <= 200 else f"{line[:199]}…"


def threads() -> int:
    """Processors of this machine: what every engine may use."""
    return len(os.sched_getaffinity(0))


def cases_of(engine: Engine, architectures: Sequence[str], methods: Sequence[str]) -> list[tuple[str, str]]:
    """The (architecture, method) pairs that this engine is run on."""
    own = cases.ARCHITECTURES if engine.architectures is None else engine.architectures
    return [(a, m) for a in architectures if a in own for m in methods]
