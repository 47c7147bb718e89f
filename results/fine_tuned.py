"""Does Resonance help a model that was fine-tuned with it? `python results/fine_tuned.py runs/fine-tuned`

Reads, in that folder, fine-tunings `METHOD-seedN/record.json` and what was read with them and with the model
before, `read/METHOD-seedN/CORPUS/report.json` and `read/METHOD-before/…` (recipes/fine-tuning.md), and writes
report.md, report.json and pictures into results/fine-tuned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resrope.cli.shell import script
from resrope.files import atomic_write
from resrope.finetune.report import looks, losses
from resrope.longtext.curves import Ratio, Tally, ratios
from resrope.page import Grid, Page
from resrope.pictures import figure, png, style, title
from resrope.spec.methods import RESONANCE

HERE = Path(__file__).parent
PLAIN = "yarn"
METHODS = (RESONANCE + PLAIN, PLAIN)
BEFORE = "before"
Text = tuple[str, str]  # corpus, name
Report = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Fine-tunings by (method, seed), readings by (method, seed or BEFORE) and corpus, passkeys alike."""

    tunings: Mapping[tuple[str, str], Report]
    readings: Mapping[tuple[str, str], Mapping[str, Report]]
    passkeys: Mapping[tuple[str, str], Report]

    @property
    def seeds(self) -> list[str]:
        """Those of which both methods were read."""
        there = {seed for _, seed in self.readings if seed != BEFORE}
        return sorted(s for s in there if all((m, s) in self.readings for m in METHODS))

    @property
    def corpora(self) -> list[str]:
        """Those that were read with both methods of all seeds."""
        first, *others = (self.readings[m, s] for m in METHODS for s in self.seeds)
        return [corpus for corpus in first if all(corpus in other for other in others)]

    def states(self, corpora: Sequence[str]) -> list[str]:
        """Before, where all of ``corpora`` were read then, and the seeds."""
        before = all(c in self.readings.get((m, BEFORE), {}) for m in METHODS for c in corpora)
        return [BEFORE] * before + self.seeds

    @property
    def lengths(self) -> list[int]:
        """The longest list of lengths that a corpus was read to."""
        listed = [r["lengths"] for found in self.readings.values() for r in found.values()]
        return max(listed, key=lambda lengths: lengths[-1])


def read(folder: Path) -> Evidence:
    """Everything that is finished. Raises ValueError when no seed was read with both methods."""
    tunings, readings, passkeys = {}, {}, {}
    for method in METHODS:
        for file in sorted(folder.glob(f"{method}-seed*/record.json")):
            tunings[method, file.parent.name.removeprefix(f"{method}-")] = _json(file)
        for one in sorted((folder / "read").glob(f"{method}-*")):
            state = one.name.removeprefix(f"{method}-")
            found = {f.parent.name: _json(f) for f in sorted(one.glob("*/report.json"))}
            if found:
                readings[method, state] = found
            if (one / "passkey" / "passkey.json").is_file():
                passkeys[method, state] = _json(one / "passkey" / "passkey.json")
    made = Evidence(tunings=tunings, readings=readings, passkeys=passkeys)
    if not made.seeds:
        raise ValueError(f"{folder}: no seed was read with both {' and '.join(METHODS)}")
    return made


def _json(file: Path) -> Report:
    made: Report = json.loads(file.read_text("utf-8"))
    return made


def nats(found: Mapping[str, Report], texts: Sequence[Text], lengths: Sequence[int]) -> Tally:
    """Losses between neighbouring lengths, from the perplexities of whole prefixes: [texts, lengths]."""
    sums, tokens = np.zeros((2, len(texts), len(lengths)))
    for row, (corpus, name) in enumerate(texts):
        curve = next(iter(found[corpus]["methods"].values()))["by_text"][name]
        so_far, read_before = 0.0, 0
        for column, length in enumerate(lengths):
            perplexity = curve.get(str(length))
            if perplexity is None:
                break
            whole = math.log(perplexity) * (length - 1)
            sums[row, column], tokens[row, column] = whole - so_far, length - 1 - read_before
            so_far, read_before = whole, length - 1
    return Tally(nats=sums, tokens=tokens)


def texts_of(evidence: Evidence, corpora: Sequence[str]) -> list[Text]:
    """All texts of these corpora that reach the first length."""
    found = evidence.readings[METHODS[0], evidence.seeds[0]]
    least = str(evidence.lengths[0])
    return [
        (corpus, name)
        for corpus in corpora
        for name, curve in next(iter(found[corpus]["methods"].values()))["by_text"].items()
        if curve.get(least) is not None
    ]


def compared(evidence: Evidence, state: str, corpora: Sequence[str]) -> list[Ratio | None]:
    """Resonance over plain, between the lengths; the state ``seeds`` is all seeds, whose nats are added."""
    texts = texts_of(evidence, corpora)
    states = evidence.seeds if state == "seeds" else [state]
    one, other = (
        _added([nats(evidence.readings[method, s], texts, evidence.lengths) for s in states])
        for method in METHODS
    )
    return ratios(one, other)


def between_seeds(evidence: Evidence, corpora: Sequence[str]) -> list[list[Ratio | None]]:
    """What another order of the same texts changes: the last seed over the first, method by method."""
    texts = texts_of(evidence, corpora)
    first, last = evidence.seeds[0], evidence.seeds[-1]
    if first == last:
        return []

    def one(method: str, seed: str) -> Tally:
        return nats(evidence.readings[method, seed], texts, evidence.lengths)

    return [ratios(one(method, last), one(method, first)) for method in METHODS]


def _added(parts: Sequence[Tally]) -> Tally:
    """The same texts under several seeds: nats and tokens of each text are added."""
    return Tally(nats=np.sum([p.nats for p in parts], 0), tokens=np.sum([p.tokens for p in parts], 0))


def main(folder: Path, out: Path = HERE / "fine-tuned") -> None:
    """Read, set against each other, write."""
    evidence = read(folder)
    corpora = evidence.corpora
    pictures = {"positions.png": png(_positions(evidence, corpora)), "training.png": png(_training(evidence))}
    page = Page(
        heading="SmolLM2-135M fine-tuned for 32,768 tokens, YaRN with and without Resonance",
        facts=_facts(evidence),
        grids=_grids(evidence, corpora),
        captions={
            "positions.png": "Perplexity of the tokens between two lengths alone, by corpus; thin: before "
            "fine-tuning. Below: Resonance YaRN's over YaRN's; above 1 Resonance hurts; grey: before. "
            "Bands: 95 % intervals, texts drawn again.",
            "training.png": "Perplexity of Emma's sequences of the training length along the fine-tuning.",
        },
        made_by="python results/fine_tuned.py",
    )
    data = {
        "tunings": _keyed(evidence.tunings),
        "readings": {
            name: {corpus: _kept(report) for corpus, report in found.items()}
            for name, found in _keyed(evidence.readings).items()
        },
        "passkeys": _keyed(evidence.passkeys),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        atomic_write(out / name, picture)
    atomic_write(out / "report.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "report.md", page.markdown())


def _keyed(found: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    return {"-".join(key): value for key, value in found.items()}


def _kept(report: Report) -> dict[str, Any]:
    """Of a reading what every number here follows from, and who made it."""
    by_text = next(iter(report["methods"].values()))["by_text"]
    # Where the texts lay is of that machine alone.
    words = report["made"].get("command", "").split(" ")
    command = " ".join(f"texts/{Path(word).name}" if word.startswith("/") else word for word in words)
    made = {**report["made"], "command": command}
    return {**{k: report[k] for k in ("model", "texts", "seconds")}, "made": made, "by_text": by_text}


def _facts(evidence: Evidence) -> list[str]:
    records = list(evidence.tunings.values())
    recipe, texts = records[0]["recipe"], records[0]["texts"]
    seconds = {name: sum(e["seconds"] for e in r["history"]) for name, r in _keyed(evidence.tunings).items()}
    commits = sorted({s["commit"] for r in records for s in r["starts"]})
    return [
        f"{recipe['steps']} updates of one sequence of {recipe['length']} tokens "
        f"({recipe['steps'] / texts['chunks']:.2f} epochs of {len(texts['documents'])} novels), "
        f"{recipe['precision']}, AdamW {recipe['learning_rate']:g}, full fine-tuning, factor "
        f"{recipe['parameters']['factor']:g}",
        "same seed: same order of the same chunks, same weights at the start",
        "seconds: " + ", ".join(f"{name} {s:,.0f}" for name, s in seconds.items()),
        f"trained at {', '.join(commits)}; read at " + ", ".join(sorted(set(_commits(evidence.readings)))),
    ]


def _commits(readings: Mapping[Any, Mapping[str, Report]]) -> list[str]:
    return [
        c
        for found in readings.values()
        for r in found.values()
        for m in r["methods"].values()
        for c in m["commits"]
    ]


def _grids(evidence: Evidence, corpora: Sequence[str]) -> list[Grid]:
    made = [_ratios(evidence, [corpus], corpus) for corpus in corpora]
    made.append(_ratios(evidence, corpora, "all texts"))
    made += [_perplexities(evidence, corpus) for corpus in corpora]
    return [*made, _passkeys(evidence)] if evidence.passkeys else made


def _stretches(evidence: Evidence) -> list[str]:
    starts = [0, *evidence.lengths[:-1]]
    return [f"{a} – {b}" for a, b in zip(starts, evidence.lengths, strict=True)]


def _ratios(evidence: Evidence, corpora: Sequence[str], what: str) -> Grid:
    """Resonance YaRN over YaRN, before, by seed, over all seeds; and seed over seed."""
    rows = [[_words(s), *map(_ratio, compared(evidence, s, corpora))] for s in evidence.states(corpora)]
    if len(evidence.seeds) > 1:
        rows.append(["all seeds", *map(_ratio, compared(evidence, "seeds", corpora))])
        found = between_seeds(evidence, corpora)
        for method, row in zip(METHODS, found, strict=True):
            rows.append([f"{title(method)}, last seed over first", *map(_ratio, row)])
    count = len(texts_of(evidence, corpora))
    return Grid(
        f"With Resonance / without, {what} ({count} texts)",
        ["tokens", *_stretches(evidence)],
        rows,
        "Perplexity of the tokens of a stretch alone, Resonance YaRN's over YaRN's; below 1 it helps. In "
        "brackets 95 % intervals, texts drawn again, where five or more reach it; ! where they leave 1 out.",
    )


def _words(state: str) -> str:
    return "before" if state == BEFORE else state.replace("seed", "fine-tuned, seed ")


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.ratio:.4f}"
    return f"{found.ratio:.4f} [{found.low:.4f}, {found.high:.4f}]" + " !" * found.certain


def _perplexities(evidence: Evidence, corpus: str) -> Grid:
    texts = texts_of(evidence, [corpus])
    rows = [
        [f"{title(m)}, {_words(s)}", *map(_number, _curve(evidence, m, s, texts))]
        for s in evidence.states([corpus])
        for m in METHODS
    ]
    return Grid(f"Perplexity by position, {corpus}", ["tokens", *_stretches(evidence)], rows)


def _curve(evidence: Evidence, method: str, state: str, texts: Sequence[Text]) -> list[float | None]:
    return nats(evidence.readings[method, state], texts, evidence.lengths).perplexity()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _passkeys(evidence: Evidence) -> Grid:
    lengths = next(iter(evidence.passkeys.values()))["lengths"]
    rows = []
    for (method, state), found in evidence.passkeys.items():
        by_length = next(iter(found["methods"].values()))["by_length"]
        rows.append(
            [f"{title(method)}, {_words(state)}", *(f"{100 * by_length[str(n)]:.0f}" for n in lengths)]
        )
    one = next(iter(evidence.passkeys.values()))
    asked = len(one["depths"]) * one["trials"]
    return Grid(
        "Passkeys found, %", ["tokens", *map(str, lengths)], rows, f"Of {asked} questions at every length."
    )


def _positions(evidence: Evidence, corpora: Sequence[str]) -> Any:
    made, axes = figure(2, len(corpora), width=4.2)
    middles = [(a + b) / 2 for a, b in zip([0, *evidence.lengths[:-1]], evidence.lengths, strict=True)]
    for axis, corpus in zip(axes[0], corpora, strict=True):
        texts = texts_of(evidence, [corpus])
        for method in METHODS:
            for state in evidence.states([corpus]):
                look = {**style(method), "marker": "o", "markersize": 3}
                look |= {"linewidth": 0.7, "alpha": 0.6} if state == BEFORE else {}
                look["label"] = f"{title(method)}, {_words(state)}"
                axis.plot(middles, [_or_nan(v) for v in _curve(evidence, method, state, texts)], **look)
        axis.set_title(f"{corpus} ({len(texts)} texts)", fontsize=10)
        axis.grid(alpha=0.3)
    for axis, corpus in zip(axes[1], corpora, strict=True):
        for state in evidence.states([corpus]):
            _draw_ratios(axis, middles, compared(evidence, state, [corpus]), state)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_xlabel("position in the text (tokens)")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("perplexity")
    axes[1][0].set_ylabel("with Resonance / without")
    for row in axes:
        row[0].legend(fontsize=6, frameon=False)
    return made


def _draw_ratios(axis: Any, at: Sequence[float], found: Sequence[Ratio | None], state: str) -> None:
    """Points, with their intervals where there are any."""
    values = [_or_nan(None if r is None else r.ratio) for r in found]
    look = {"color": "grey"} if state == BEFORE else {}
    (line,) = axis.plot(at, values, marker="o", markersize=3, label=_words(state), **look)
    sure = [(x, r.low, r.high) for x, r in zip(at, found, strict=True) if r is not None and r.low is not None]
    if sure:
        places, low, high = zip(*sure, strict=True)
        axis.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _training(evidence: Evidence) -> Any:
    made, axes = figure(1, 2, width=4.6)
    for (method, seed), record in evidence.tunings.items():
        look = {**style(method), "label": f"{title(method)}, {_words(seed)}"}
        found, held_out = losses(record), looks(record)
        values = list(found.values())
        width = max(1, len(values) // 10)
        smooth = [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(values))]
        axes[0][0].plot(list(found), smooth, **look)
        axes[0][1].plot(list(held_out), list(held_out.values()), **{**look, "marker": "o", "markersize": 3})
    axes[0][0].set_ylabel("training loss, running mean (nats)")
    axes[0][1].set_ylabel("held-out perplexity")
    for axis in axes[0]:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0][1].legend(fontsize=7, frameon=False)
    return made


if __name__ == "__main__":
    script(main)
