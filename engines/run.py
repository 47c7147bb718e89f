"""`make test-engines`: stock engines run what `resrope extend` wrote, beside a reference set by hand.

    python engines/run.py                              # everything, into results/engines.json and .md
    python engines/run.py --only mlx --arch llama      # a part, printed; nothing is written
    python engines/run.py --quick                      # the same for three architectures and two methods

Finished cases are kept in runs/engines and count as long as the code is the same: a second run goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import applied
import cases
import report
import setup
import smollm2
import tiny
import work
from resrope.files import atomic_write
from resrope.provenance import commit, provenance

# Cases per process of an engine: starting one takes seconds, what is finished is kept after each.
_BATCH = 48
_QUICK = (("llama", "gemma3_text", "gpt_neox"), ("resonance-yarn", "ntk"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 when done, 2 on a user's mistake."""
    asked = _parser().parse_args(arguments)
    try:
        engines = _chosen("--only", asked.only, tuple(work.ENGINES))
        architectures = _chosen("--arch", asked.arch, tuple(cases.ARCHITECTURES))
        _check_environments(engines)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    methods = tuple(cases.METHODS)
    if asked.quick:
        architectures = tuple(a for a in _QUICK[0] if a in architectures) or architectures[:1]
        methods = _QUICK[1]
    whole = not (asked.quick or asked.only or asked.arch)
    results = measure(engines, architectures, methods, real=not (asked.quick or asked.arch))
    text = report.markdown(results)
    if whole:
        report.check(results)
        folder = work.ROOT / "results"
        atomic_write(folder / "engines.json", json.dumps(results, indent=1) + "\n")
        atomic_write(folder / "engines.md", text)
        page = work.ROOT / "docs" / "serving.md"
        table = report.serving_table(results)
        atomic_write(page, report.update_serving(page.read_text(encoding="utf-8"), table))
    print(text)
    return 0


def measure(
    engines: Sequence[str], architectures: Sequence[str], methods: Sequence[str], *, real: bool
) -> dict[str, Any]:
    """Run the cases and the real model; all that the report is made from."""
    import torch
    import transformers

    torch.set_num_threads(work.threads())
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    began, fresh = time.perf_counter(), work.fingerprint()
    with _progress() as progress:
        task = progress.add_task("references", total=len(architectures))
        for architecture in architectures:
            tiny.prepare(architecture, fresh)
            progress.advance(task)
        records = [r for name in engines for r in _engine(name, architectures, methods, fresh, progress)]
        changed = _applied(architectures, fresh, progress)
        found: dict[str, Any] = {}
        if real:
            task = progress.add_task("smollm2", total=None)
            found = smollm2.measure(
                engines, fresh, lambda s: progress.update(task, description=f"smollm2 {s}")
            )
    return {
        "command": shlex.join(["python", "engines/run.py", *sys.argv[1:]]),
        **provenance(),
        "commit": commit(work.ROOT),
        "threads": work.threads(),
        "seconds": round(time.perf_counter() - began, 1),
        "reference": transformers.__version__,
        "goals": report.goals(),
        "settings": {
            "architectures": len(architectures),
            "methods": {name: cases.METHODS[name] for name in methods},
            "original": cases.ORIGINAL,
            "length": cases.LENGTH,
            "factor": cases.FACTOR,
        },
        "tiny": records,
        "applied": changed,
        "smollm2": found,
    }


def _engine(
    name: str, architectures: Sequence[str], methods: Sequence[str], fresh: str, progress: Progress
) -> list[dict[str, Any]]:
    """The records of one engine, those of an earlier run first looked for."""
    engine = work.ENGINES[name]
    pairs = work.cases_of(engine, architectures, methods)
    old = {pair: work.kept(_record_name(name, pair), fresh) for pair in pairs}
    todo = [pair for pair in pairs if old[pair] is None]
    # One step for what is written and one for what is run.
    task = progress.add_task(name, total=2 * len(pairs), completed=2 * (len(pairs) - len(todo)))
    for first in range(0, len(todo), _BATCH):
        batch = todo[first : first + _BATCH]
        records = tiny.run(engine, batch, fresh, lambda: progress.advance(task))
        for pair, record in zip(batch, records, strict=True):
            work.keep(_record_name(name, pair), fresh, record)
            old[pair] = record
    progress.update(task, completed=2 * len(pairs))
    return [record for record in old.values() if record is not None]


def _applied(architectures: Sequence[str], fresh: str, progress: Progress) -> list[dict[str, Any]]:
    if not all(work.kept(f"written/transformers-{a}-rope", fresh) for a in architectures):
        return []  # neither major of transformers was asked for
    task = progress.add_task("resrope.apply", total=None)
    return applied.measure(architectures, fresh, lambda: progress.advance(task))


def _record_name(engine: str, pair: tuple[str, str]) -> str:
    return f"tiny/{engine}-{'-'.join(pair)}"


def _chosen(option: str, given: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return known
    names = tuple(dict.fromkeys(name for name in given.split(",") if name))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{option} takes {', '.join(known)}, got {given!r}")
    return names


def _check_environments(engines: Sequence[str]) -> None:
    needed = [work.ENGINES[name].environment for name in engines]
    missing = sorted({name for name in needed if name is not None and not setup.ready(name)})
    if missing:
        raise ValueError(
            f"no environment for {', '.join(missing)}: run python engines/setup.py {' '.join(missing)}"
        )


def _progress() -> Progress:
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="ENGINES", help=", ".join(work.ENGINES))
    parser.add_argument("--arch", metavar="ARCHITECTURES", help=", ".join(cases.ARCHITECTURES))
    parser.add_argument(
        "--quick", action="store_true", help="three architectures, two methods, no real model"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
