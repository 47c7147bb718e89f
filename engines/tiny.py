"""The tiny models: references here, written folders run by the engines, differences kept as records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cases
import derive
import reference
from work import WORK, Engine, extend_each, keep, kept, run_each, within

Pair = tuple[str, str]
Advance = Callable[[], None]


def prepare(architecture: str, fresh: str) -> None:
    """Save the architecture's tiny model and its reference logits under every method, unless already done."""
    if kept(f"models/{architecture}", fresh) is not None:
        return
    folder = _source(architecture)
    shutil.rmtree(folder, ignore_errors=True)
    cases.save(architecture, folder)
    model = _loaded(architecture)
    for method in cases.METHODS:
        table = cases.table(architecture, method)
        reference.install(model, {_layer(architecture): (table.inv_freq, table.attention_factor)})
        np.save(reference_logits(architecture, method), reference.logits(model, cases.tokens()))
    keep(f"models/{architecture}", fresh, {"folder": str(folder)})


def write(engine: Engine, pairs: Sequence[Pair], fresh: str, advance: Advance) -> dict[Pair, dict[str, Any]]:
    """`resrope extend` for every pair: exit code and what it said; once for engines that ask alike."""
    done, jobs = {}, []
    for architecture, method in pairs:
        name = _written_name(engine, architecture, method)
        old = kept(name, fresh)
        if old is not None:
            done[name] = old
            advance()
            continue
        out = engine.written(case_folder(architecture, method))
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(out)
        jobs.append({"id": name, "arguments": _extend(engine, architecture, method, out)})
    for name, line in extend_each(jobs, advance).items():
        keep(name, fresh, line)
        done[name] = line
    return {pair: done[_written_name(engine, *pair)] for pair in pairs}


def run(engine: Engine, pairs: Sequence[Pair], fresh: str, advance: Advance) -> tuple[dict[str, Any], ...]:
    """One record per pair: ran, refused by `resrope extend`, or failed; with the differences where it ran."""
    written = write(engine, pairs, fresh, advance)
    ready = [pair for pair in pairs if written[pair]["code"] == 0]
    lines = _derived(engine, ready, advance) if engine.environment is None else _ran(engine, ready, advance)
    return tuple(_record(engine, pair, written[pair], lines.get(pair)) for pair in pairs)


def _ran(engine: Engine, pairs: Sequence[Pair], advance: Advance) -> dict[Pair, dict[str, Any]]:
    jobs = [
        {
            "id": f"{architecture}/{method}",
            "model": str(engine.written(case_folder(architecture, method))),
            "tokens": cases.tokens(),
            "attention": cases.ARCHITECTURES[architecture].attention,
            "out": str(case_folder(architecture, method) / f"{engine.name}.npy"),
        }
        for architecture, method in pairs
    ]
    lines = run_each(engine, jobs, advance)
    return {pair: lines["/".join(pair)] for pair in pairs}


def _derived(engine: Engine, pairs: Sequence[Pair], advance: Advance) -> dict[Pair, dict[str, Any]]:
    """What an engine that cannot run here would compute: its derived tables in the reference model."""
    found: dict[Pair, dict[str, Any]] = {}
    for pair in pairs:
        line: dict[str, Any] = {"versions": {engine.name: "derived, not run"}}
        try:
            np.save(case_folder(*pair) / f"{engine.name}.npy", _as_read(engine, pair, engine.name))
        except ValueError as error:
            line["error"] = str(error)
        found[pair] = line
        advance()
    return found


def _as_read(engine: Engine, pair: Pair, reader: str) -> np.ndarray:
    """Logits of the reference model with the tables that ``reader`` derives from the written config."""
    written = engine.written(case_folder(*pair))
    config = json.loads((written / "config.json").read_text(encoding="utf-8"))
    tables = derive.tables(reader, config, head_dim=cases.HEAD_DIM, last=cases.LENGTH - 1)
    # With the written weights, so that an attention factor that was folded into them counts.
    model = _loaded(pair[0], written)
    reference.install(model, {k: (t.inv_freq, t.scale) for k, t in tables.items()})
    return reference.logits(model, cases.tokens())


def _record(
    engine: Engine, pair: Pair, written: Mapping[str, Any], line: Mapping[str, Any] | None
) -> dict[str, Any]:
    architecture, method = pair
    record: dict[str, Any] = {"engine": engine.name, "architecture": architecture, "method": method}
    if line is None:
        refused = written["code"] == 2
        said = written["said"].strip().splitlines() or [""]
        reason = said[-1].removeprefix("error: ") if refused else f"resrope extend: {said[-1]}"
        return {**record, "status": "refused" if refused else "failed", "reason": within(reason)}
    record |= {"versions": line.get("versions", {}), "seconds": line.get("seconds")}
    told = written.get("caveat") or ""
    if told.startswith(engine.name):
        return {**record, "status": "refused", "reason": within(told)}
    if line.get("error"):
        return {**record, "status": "failed", "reason": within(line["error"])}
    out = case_folder(architecture, method) / f"{engine.name}.npy"
    wanted, plain = (
        np.load(reference_logits(architecture, method)),
        np.load(reference_logits(architecture, "rope")),
    )
    found: dict[str, Any] = reference.difference(wanted, np.load(out))
    if engine.of == "from_spelled":
        spelled = _as_read(engine, pair, "transformers")
        found["from_spelled"] = reference.difference(spelled, np.load(out))["max_difference"]
    out.unlink()
    ignored = reference.difference(wanted, plain)
    return {**record, "status": "ran", **found, **{f"ignored_{k}": v for k, v in ignored.items()}}


def _extend(engine: Engine, architecture: str, method: str, out: Path) -> list[str]:
    given = [str(_source(architecture)), str(out), *cases.arguments(method)]
    return ["extend", *given, "--engine", engine.extend, "--json"]


def _loaded(architecture: str, weights: Path | None = None) -> Any:
    """The unscaled model, with the weights of another folder where one is given."""
    source, attention = _source(architecture), cases.ARCHITECTURES[architecture].attention
    return reference.load(weights or source, source, attention)


def _layer(architecture: str) -> str:
    return cases.ARCHITECTURES[architecture].layer or "default"


def _source(architecture: str) -> Path:
    return WORK / "models" / architecture


def reference_logits(architecture: str, method: str) -> Path:
    """Where the reference's logits lie."""
    return _source(architecture) / f"{method}.npy"


def case_folder(architecture: str, method: str) -> Path:
    """Where everything that is written for one case lies."""
    return WORK / "written" / f"{architecture}-{method}"


def _written_name(engine: Engine, architecture: str, method: str) -> str:
    return f"written/{engine.extend}-{architecture}-{method}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
