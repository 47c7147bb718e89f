"""All benchmarks, one after the other: `make bench`. Writes results.json and results.md beside this file.

`python benchmarks/run.py exact` measures one part again.

Ratios are medians over rounds in which the peers take turns; seconds are this machine's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
import exact
import finetune
import gap
import longtext
import step
import tables
import together
from resrope.posgen.runner import default_jobs
from resrope.provenance import provenance

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number beside its goal: at most ``most`` or at least ``least``, if it has one."""

    what: str
    against: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None
    more: str = ""

    def cells(self) -> tuple[str, ...]:
        """What, against what, measured, goal, met."""
        goal, met = "", ""
        if self.least is not None:
            goal, met = f"≥ {self.least:g}{self.unit}", "yes" if self.value >= self.least else "no"
        if self.most is not None:
            goal, met = f"≤ {self.most:g}{self.unit}", "yes" if self.value <= self.most else "no"
        return self.what, self.against, f"{self.value:.3g}{self.unit}{self.more}", goal, met


PARTS = {
    "tables": tables.measure,
    "gap": gap.measure,
    "exact": exact.measure,
    "data": data.measure,
    "step": step.measure_all,
    "longtext": longtext.measure,
    "finetune": finetune.measure,
    "together": together.measure,
}


def main(asked: Sequence[str]) -> None:
    """Measure the parts asked for, all where none is; print the table, write both files.

    What is not measured again stays as it was, and every part keeps the commit that measured it.
    """
    file, here = HERE / "results.json", {**provenance(), "processors": default_jobs()}
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if asked else {"machine": here}
    for name in asked or PARTS:
        if name not in PARTS:
            raise SystemExit(f"error: parts are {', '.join(PARTS)}, got {name!r}")
        print(f"{name} …", flush=True)
        results[name] = PARTS[name]()
        if asked:
            when = {key: here[key] for key in ("commit", "date", "processor")}
            results.setdefault("again", {})[name] = when
    text = markdown(results)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "results.md").write_text(text, encoding="utf-8")
    print(text)


def markdown(results: Mapping[str, Any]) -> str:
    """The tables for people."""
    m = results["machine"]
    rows = [
        f"| {' | '.join(row.cells())} |"
        for row in (
            *_table_rows(results),
            *_model_rows(results),
            *_longtext_rows(results),
            *_finetune_rows(results),
            *_posgen_rows(results),
            *_together_rows(results),
        )
    ]
    errors = [
        f"| {position} | {e['stock']:.1e} | {e['resrope']:.1e} | {e['stock_on_resonant']:.1e} |"
        for position, e in results["tables"]["max_cos_error"].items()
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"`make bench` at commit {m['commit']}, {m['date']}: {m['processor']}, "
            f"{m['processors']} processors, "
            f"torch {m['torch']}, numpy {m['numpy']}, Python {m['python']}. All figures are in results.json.",
            *(
                f"Measured again: {name} at commit {a['commit']}, {a['date']}, "
                f"{a.get('processor', m['processor'])}."
                for name, a in results.get("again", {}).items()
            ),
            "",
            "| what | against | measured | goal | met |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            "Largest error of cos over 64 features (head_dim 128, rope_theta 10000) and the 256 positions",
            "before each:",
            "",
            "| position | stock float32 | resrope | stock float32 on resonant wavelengths |",
            "| --- | --- | --- | --- |",
            *errors,
            "",
        ]
    )


def _table_rows(results: Mapping[str, Any]) -> list[Row]:
    t, g = results["tables"], results["gap"]
    size = f"{t['positions']} positions × {t['features']} features"
    stock = "stock float32 outer product + cos + sin"
    return [
        *(
            Row(f"{name} cos/sin table, {size}: time", stock, t["time_ratio"][name], "×", most=1.5)
            for name in ("resonant", "plain")
        ),
        Row("the same: peak memory", stock, max(t["memory_ratio"].values()), "×", most=1.0),
        Row("feature gap, 4096 → 1048576, 64 features", "", max(g["seconds"].values()), " s", most=2.0),
        Row("feature gap, 512 → 2048: times faster", "numpy, all pairs", g["brute_force_over_ours"], "×"),
    ]


def _model_rows(results: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            f"forward of {n} tokens with exact phases",
            "the same model in transformers",
            value,
            "×",
            most=1.02,
        )
        for n, value in results["exact"]["time_ratio"].items()
    ]


def _longtext_rows(results: Mapping[str, Any]) -> list[Row]:
    if "longtext" not in results:  # half an hour of its own: measured by name
        return []
    found = results["longtext"]
    usual = "a forward with full logits per length"
    rows = []
    for longest, curve in found["curve"].items():
        what = f"perplexity of SmolLM2 at 512, 1024, … {longest} tokens"
        rows += [
            Row(f"{what}: times faster", usual, curve["times_faster"], "×", least=1.9),
            Row("the same: times less peak memory", usual, curve["times_less_memory"], "×", least=4),
        ]
    windows, longest = found["windows"], found["longest"]
    same = "the same windows, full logits"
    return [
        *rows,
        Row("sliding windows, 2048 / 512: times faster", same, windows["times_faster"], "×", least=1),
        Row("perplexity at 32768 tokens: peak memory", "", longest["peak_mib"] / 1024, " GiB", most=3),
    ]


def _finetune_rows(results: Mapping[str, Any]) -> list[Row]:
    if "finetune" not in results:  # as long as longtext
        return []
    plain = "transformers' Trainer, its own loss and data path"
    rows = []
    for tokens, found in results["finetune"].items():
        what = f"fine-tuning step of SmolLM2 at {tokens} tokens"
        rows += [
            Row(f"{what}: tokens/s", plain, found["times_faster"], "×", least=1),
            Row("the same: peak memory", plain, found["memory_ratio"], "×", most=0.6),
        ]
    return rows


def _together_rows(results: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            f"a step of {cells} PosGen cells as one model, {size}, one thread: times faster",
            "one cell after the other",
            found["times_faster"],
            "×",
        )
        for size, by_cells in results.get("together", {}).items()
        for cells, found in by_cells.items()
    ]


def _posgen_rows(results: Mapping[str, Any]) -> list[Row]:
    d, s = results["data"], results["step"]
    paper, quick = s["paper"], s["quick"]
    slowest = min(task["plain_loop_over_ours"] for task in d["tasks"].values())
    tight = min(task["tight_loop_over_ours"] for task in d["tasks"].values())
    kept = f" (with our heap setting too: {paper['times_faster_than_t5_kept_heap']:.2f}×)"
    own = "the machine's own float32 matrix-product rate"
    step_size = f"the paper's size ({paper['batch']} × {paper['seq']}, dropout 0.1)"
    return [
        Row(
            f"PosGen sequences, {d['rows']} × {d['length']}, slowest task: times faster",
            "the plain Python loop",
            slowest,
            "×",
            least=100,
            more=f" (a loop tightened by hand: {tight:.0f}×)",
        ),
        Row(
            f"training step at {step_size}: times faster",
            "transformers' T5 stack, eager",
            paper["times_faster_than_t5"],
            "×",
            least=1.6,
            more=kept,
        ),
        Row("the same: share of", own, 100 * paper["share_of_product_rate"], " %", least=75),
        Row(
            f"training step of preset quick ({quick['batch']} × {quick['seq']}), one thread: share of",
            own,
            100 * quick["share_of_product_rate"],
            " %",
            more=f" ({quick['step_ms']:.0f} ms)",
        ),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
