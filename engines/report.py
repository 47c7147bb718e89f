"""`results/engines.json` and `results/engines.md` from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from work import ENGINES

STATUSES = ("ran", "refused", "failed")
_OF = {"max_difference": "logits", "kl": "nats"}
_GOAL_OF = {**_OF, "from_spelled": "logits from the spelled table"}


def check(results: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``results`` has the shape that this file writes and readers rely on."""
    for key in ("command", "commit", "date", "seconds", "goals", "settings", "tiny", "applied", "smollm2"):
        if key not in results:
            raise ValueError(f"results need {key}, got {', '.join(results)}")
    for record in results["tiny"]:
        needed = ["engine", "architecture", "method", "status"]
        needed += ["max_difference", "kl"] if record.get("status") == "ran" else ["reason"]
        missing = [key for key in needed if key not in record]
        if missing or record["status"] not in STATUSES or record["engine"] not in ENGINES:
            raise ValueError(f"a record needs {', '.join(missing) or 'a known status and engine'}: {record}")


def goals() -> dict[str, dict[str, Any]]:
    """Per engine the largest difference that is wanted, and of what."""
    return {e.name: {"most": e.most, "of": e.of} for e in ENGINES.values()}


def markdown(results: Mapping[str, Any]) -> str:
    """The tables for people."""
    s = results["settings"]
    lines = [
        "# Engines",
        "",
        f"`{results['command']}` at commit {results['commit']}, {results['date']}, "
        f"{results['seconds'] / 60:.0f} minutes on {results['threads']} processors. Reference: transformers "
        f"{results['reference']} in float32, its buffers set by hand from `resrope.frequencies`. All numbers "
        "are in engines.json.",
        "",
        *_summary(results),
        "## SmolLM2-135M",
        "",
        *_smollm2(results["smollm2"]),
        "## Tiny random models",
        "",
        f"{s['architectures']} architectures, trained length {s['original']}, positions 0 to "
        f"{s['length'] - 1}, factor "
        f"{s['factor']:g}. Each cell: largest difference of a logit over all methods that ran; how many were "
        "refused before anything was written; how many failed in the engine.",
        "",
        *_matrix(results["tiny"]),
        "## `resrope.apply`",
        "",
        *_applied(results["applied"]),
        "## Methods that were refused or failed",
        "",
        *_reasons(results["tiny"]),
    ]
    return "\n".join(lines)


def serving_table(results: Mapping[str, Any], method: str = "resonance-yarn") -> str:
    """The table of architectures in docs/serving.md: one method, one cell per engine."""
    mine = [r for r in results["tiny"] if r["method"] == method and r["engine"] != "onnx"]
    engines = [name for name in ENGINES if any(r["engine"] == name for r in mine)]
    rows = [f"| | {' | '.join(engines)} |", "| --- " * (len(engines) + 1) + "|"]
    for architecture in sorted({r["architecture"] for r in mine}):
        cells = {r["engine"]: r for r in mine if r["architecture"] == architecture}
        words = {"refused": "no", "failed": "fails"}
        said = (
            words.get(r["status"]) or _number(r["max_difference"]) for r in (cells[name] for name in engines)
        )
        rows.append(f"| {architecture} | {' | '.join(said)} |")
    return "\n".join(rows)


def update_serving(page: str, table: str) -> str:
    """``page`` with ``table`` between the two comments that hold its place."""
    head, rest = page.split(_PLACE[0])
    return f"{head}{_PLACE[0]}\n\n{table}\n\n{_PLACE[1]}{rest.split(_PLACE[1])[1]}"


def _summary(results: Mapping[str, Any]) -> list[str]:
    head = [
        "| engine | version | ran | refused | failed | largest Δ logit | largest KL "
        "| without a method | from the spelled table | goal | met |"
    ]
    head.append("| --- " * 11 + "|")
    rows = []
    for name, engine in ENGINES.items():
        mine = [r for r in results["tiny"] if r["engine"] == name]
        if not mine:
            continue
        ran = [r for r in mine if r["status"] == "ran"]
        count = [str(sum(r["status"] == status for r in mine)) for status in STATUSES]
        own = [r["max_difference"] for r in ran if r["method"] == "rope"]
        worst = {of: max((r[of] for r in ran if of in r), default=None) for of in _GOAL_OF}
        met = "" if worst[engine.of] is None else ("yes" if worst[engine.of] <= engine.most else "no")
        goal = f"{_GOAL_OF[engine.of]} ≤ {engine.most:g}"
        version = next((v for r in ran for v in r["versions"].values()), "")
        numbers = (worst["max_difference"], worst["kl"], max(own, default=None), worst["from_spelled"])
        cells = [name, version, *count, *(_number(n) for n in numbers), goal, met]
        rows.append(f"| {' | '.join(cells)} |")
    return [*head, *rows, "", *_NOTES, ""]


_PLACE = ("<!-- architectures: made by engines/report.py from results/engines.json -->", "<!-- end -->")
_NOTES = (
    "Without a method: the same engine on the unscaled model (method rope), where resrope changes nothing.",
    "From the spelled table: the reference with the float32 frequencies that the config's own numbers give;",
    "what is left between it and the exact table is rounding in the last places of a frequency.",
)


def _matrix(records: Sequence[Mapping[str, Any]]) -> list[str]:
    engines = [name for name in ENGINES if any(r["engine"] == name for r in records)]
    rows = [f"| architecture | {' | '.join(engines)} |", "| --- " * (len(engines) + 1) + "|"]
    for architecture in dict.fromkeys(r["architecture"] for r in records):
        mine = [r for r in records if r["architecture"] == architecture]
        cells = [_cell([r for r in mine if r["engine"] == name]) for name in engines]
        rows.append(f"| {architecture} | {' | '.join(cells)} |")
    return [*rows, ""]


def _cell(records: Sequence[Mapping[str, Any]]) -> str:
    differences = [r["max_difference"] for r in records if r["status"] == "ran"]
    parts = [_number(max(differences))] if differences else []
    for status in STATUSES[1:]:
        count = sum(r["status"] == status for r in records)
        parts += [f"{count} {status}"] if count else []
    return ", ".join(parts)


def _applied(records: Sequence[Mapping[str, Any]]) -> list[str]:
    if not records:
        return ["Not run.", ""]
    engines = list(dict.fromkeys(r["engine"] for r in records))
    rows = [
        f"{records[0]['method']} on a loaded model: largest difference of a logit from the reference, and, "
        "after `save` and a stock `from_pretrained`, from what was applied with `exact=False`.",
        "",
        f"| architecture | {' | '.join(f'{e} | saved, reloaded' for e in engines)} |",
        "| --- " * (2 * len(engines) + 1) + "|",
    ]
    for architecture in dict.fromkeys(r["architecture"] for r in records):
        mine = {r["engine"]: r for r in records if r["architecture"] == architecture}
        cells = (cell for e in engines for cell in _applied_cells(mine[e]))
        rows.append(f"| {architecture} | {' | '.join(cells)} |")
    return [*rows, ""]


def _applied_cells(record: Mapping[str, Any]) -> tuple[str, str]:
    if record["status"] != "ran":
        return f"failed: {record['reason']}", ""
    saved = f"refused: {record['save']}" if "save" in record else _number(record["reloaded"])
    return _number(record["max_difference"]), saved


def _reasons(records: Sequence[Mapping[str, Any]]) -> list[str]:
    by_reason: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for r in records:
        if r["status"] != "ran":
            where = by_reason.setdefault((r["engine"], r["status"], r["reason"]), {})
            where.setdefault(r["architecture"], []).append(r["method"])
    rows = ["| engine | | architecture: methods | reason |", "| --- | --- | --- | --- |"]
    for (engine, status, reason), where in by_reason.items():
        which = "; ".join(f"{a}: {', '.join(methods)}" for a, methods in where.items())
        rows.append(f"| {engine} | {status} | {which} | {reason.replace('|', '/')} |")
    return [*rows, ""]


def _smollm2(real: Mapping[str, Any]) -> list[str]:
    if not real:
        return ["Not run.", ""]
    rows = [
        f"`{real['method']}`, factor {real['factor']:g}: a text of {real['tokens']} tokens, and "
        f"{real['far_tokens']} tokens at positions {real['far_start']} and after; "
        f"{real['generated']} tokens generated greedily.",
        "",
        "| engine | text: Δ logit | text: KL | from the spelled table | far: Δ logit | far: KL "
        "| generated the same | goal | met |",
        "| --- " * 9 + "|",
    ]
    for r in real["records"]:
        text, far = r.get("text", {}), r.get("far", {})
        same = {True: "yes", False: f"the first {r.get('same_tokens')}", None: ""}[r.get("same")]
        if r["status"] != "ran":
            rows.append(f"| {r['name']} | {r['status']}: {r['reason']} | | | | | | | |")
            continue
        goal = r.get("goal")
        met = "" if not goal else ("yes" if text[goal["of"]] <= goal["most"] else "no")
        wanted = f"{_GOAL_OF[goal['of']]} ≤ {goal['most']:g}" if goal else ""
        cells = [_number(text.get(of)) for of in _GOAL_OF] + [_number(far.get(of)) for of in _OF]
        rows.append(f"| {r['name']} | {' | '.join([*cells, same, wanted, met])} |")
    return [*rows, ""]


def _number(value: float | None) -> str:
    return "" if value is None else ("0" if value == 0 else f"{value:.1e}")
