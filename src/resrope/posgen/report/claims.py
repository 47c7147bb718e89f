"""What arXiv 2403.00071 claims of PosGen (Section 6.1.2), held against a run; ``RULES`` says how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from resrope.page import Grid
from resrope.posgen.paired import Measure, Record, ood, paired
from resrope.posgen.presets import TABLE_1_METHODS
from resrope.posgen.settings import Settings
from resrope.posgen.tasks import TASKS
from resrope.posgen.titles import title
from resrope.spec.methods import RESONANCE
from resrope.stats import Summary, summarise

RULES = (
    "A claim is a difference that should be positive, paired by seed: it holds where its 95 % interval lies "
    "above 0, it does not hold where it lies below; else it is undecided. One seed decides nothing, and one "
    "interval in twenty leaves 0 out by chance.",
    "Of several parts ('the most accurate of the four', 'all along') a claim holds where the intervals of "
    "all say so, and does not where one says the contrary that allows for their number (Bonferroni; its "
    "level stands behind it). Spreads over seeds are told and not judged: near 0 and 100 % no test of a few "
    "seeds keeps its level.",
    "The difference in brackets: percentage points of OOD accuracy after the last step, nats of validation "
    "loss.",
)
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
Runs = Mapping[str, Mapping[int, Record]]
"""Of one task: the cells' records by method and seed."""
PLAIN = tuple(m for m in TABLE_1_METHODS if not m.startswith(RESONANCE))


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One claim and what a run says of it. source: where the paper makes it; numbers: what decides."""

    words: str
    source: str
    verdict: str
    numbers: str


def claims(settings: Settings, records: Sequence[Record]) -> list[Claim]:
    """All claims whose methods the run has, task by task."""
    made = []
    for task in TASKS:
        runs: dict[str, dict[int, Record]] = {}
        for record in records:
            cell = record["cell"]
            if cell["task"] == task and cell["method"] in TABLE_1_METHODS:
                runs.setdefault(cell["method"], {})[cell["seed"]] = record
        made += list(_of_task(settings, task, runs))
    return made


def grid(found: Sequence[Claim]) -> Grid:
    """The claims as a table."""
    return Grid(
        "The paper's claims on this run",
        ["claim", "where", "verdict", "difference [95 % interval]"],
        [[c.words, c.source, c.verdict, c.numbers] for c in found],
        " ".join(RULES),
    )


def counted(runs: Mapping[str, Sequence[Claim]]) -> Grid:
    """How many claims of each verdict, run by run."""
    counts = {name: Counter(claim.verdict for claim in found) for name, found in runs.items()}
    rows = [[v, *(str(counts[name][v]) for name in runs)] for v in (HOLDS, FAILS, UNDECIDED)]
    return Grid("How many claims", ["verdict", *runs], rows)


def compared(runs: Mapping[str, Sequence[Claim]], task: str) -> Grid:
    """The claims about a task, a column for every run; what a run lacks is left open."""
    by_words = {name: {claim.words: claim for claim in found} for name, found in runs.items()}
    before = f"{title(task)}: "
    every = dict.fromkeys(w for found in by_words.values() for w in found if w.startswith(before))
    rows = []
    for words in every:
        cells = [by_words[name].get(words) for name in runs]
        source = next(cell.source for cell in cells if cell is not None)
        told = ("–" if cell is None else f"{cell.verdict} ({cell.numbers})" for cell in cells)
        rows.append([words.removeprefix(before), source, *told])
    return Grid(f"{title(task)}: the paper's claims", ["claim", "where", *runs], rows)


def _of_task(settings: Settings, task: str, runs: Runs) -> Iterator[Claim]:
    where, share = title(task), ood(settings)

    def points(record: Record) -> float:
        return 100 * share(record)

    for plain in PLAIN:
        resonant, whose = RESONANCE + plain, f"{title(plain)}'s"
        if not runs.get(plain, {}).keys() & runs.get(resonant, {}).keys():
            continue
        # The paper reports one exception, and explains it.
        verb, sign = ("lowers", -1) if (task, plain) == ("recursive", "rope") else ("raises", 1)
        words = f"{where}: Resonance {verb} {whose} OOD accuracy"
        yield _claim(words, "Table 1", _differences(runs, resonant, plain, points, sign), ".1f")
        words = f"{where}: Resonance narrows {whose} spread over seeds"
        yield _spread(words, runs[resonant], runs[plain], points)
        lower = _differences(runs, resonant, plain, _lowest, -1)
        words = f"{where}: Resonance lowers {whose} lowest validation loss"
        yield _claim(words, "Section 6.1.2", lower, ".3f")
        words = f"{where}: Resonance lowers {whose} validation loss all along"
        yield _along(words, runs[resonant], runs[plain])
    best = RESONANCE + PLAIN[-1]
    if all(runs.get(m, {}).keys() & runs.get(best, {}).keys() for m in TABLE_1_METHODS):
        yield _best(f"{where}: {title(best)} is the most accurate of the four", runs, best, points)
    if task == "semi-recursive" and runs.get("resonance-rope", {}).keys() & runs.get("yarn", {}).keys():
        lower = _differences(runs, "resonance-rope", "yarn", _lowest, -1)
        words = f"{where}: Resonance RoPE reaches a lower validation loss than YaRN"
        yield _claim(words, "Section 6.1.2", lower, ".3f")


def verdict(summary: Summary | None) -> str:
    """Of a difference that should be positive."""
    return {1: HOLDS, -1: FAILS, 0: UNDECIDED}[0 if summary is None else summary.sign]


def _differences(runs: Runs, one: str, other: str, measure: Measure, sign: int = 1) -> list[float]:
    """By seed, the seeds that both have; positive where the claim is right."""
    return [sign * difference for difference in paired(runs[one], runs[other], measure)]


def _claim(words: str, source: str, differences: Sequence[float], spec: str) -> Claim:
    summary = summarise(differences)
    return Claim(words=words, source=source, verdict=verdict(summary), numbers=_numbers(summary, spec))


def _numbers(summary: Summary | None, spec: str) -> str:
    if summary is None:
        return "–"
    if summary.low is None:
        return f"{summary.mean:+{spec}}"
    return f"{summary.mean:+{spec}} [{summary.low:+{spec}}, {summary.high:+{spec}}]"


def _lowest(record: Record) -> float:
    return min(float(entry["validation_loss"]) for entry in record["history"])


def _spread(
    words: str, resonant: Mapping[int, Record], plain: Mapping[int, Record], measure: Measure
) -> Claim:
    """Told and not judged. Tests of variances want values that are normal, or alike but for their spread; of
    accuracies near 0 or 1, some of them far off, they say too often that spreads differ."""
    seeds = sorted(resonant.keys() & plain.keys())
    numbers = "one seed has no spread"
    if len(seeds) > 1:
        ours, theirs = (stdev(measure(side[s]) for s in seeds) for side in (resonant, plain))
        numbers = f"standard deviations {ours:.1f} and {theirs:.1f}"
    return Claim(words=words, source="Section 6.1.2", verdict=UNDECIDED, numbers=numbers)


def _along(words: str, resonant: Mapping[int, Record], plain: Mapping[int, Record]) -> Claim:
    """At every look: it holds where every look's interval says so, and not where one says the contrary that
    allows for their number."""
    seeds = sorted(resonant.keys() & plain.keys())
    curves = [
        [
            there["validation_loss"] - here["validation_loss"]
            for here, there in zip(resonant[s]["history"], plain[s]["history"], strict=False)
        ]
        for s in seeds
    ]
    looks = list(zip(*curves, strict=False))
    lower = sum(sum(differences) > 0 for differences in looks)
    numbers = f"on average lower at {lower} of {len(looks)} looks"
    return Claim(words=words, source="Figure 3", verdict=_every(looks), numbers=numbers)


def _every(parts: Sequence[Sequence[float]]) -> str:
    """Of a claim that has several parts: it holds where all of them do, and not where one does not by an
    interval that allows for their number (Bonferroni)."""
    if {verdict(summarise(part)) for part in parts} == {HOLDS}:
        return HOLDS
    level = _stricter(parts)
    return FAILS if any(verdict(summarise(part, level)) == FAILS for part in parts) else UNDECIDED


def _stricter(parts: Sequence[Sequence[float]]) -> float:
    return 1 - 0.05 / len(parts)


def _best(words: str, runs: Runs, best: str, measure: Measure) -> Claim:
    """Over each of the others; the numbers are those of the nearest, with the interval that refutes."""
    others = [m for m in TABLE_1_METHODS if m != best]
    found = {m: _differences(runs, best, m, measure) for m in others}
    nearest = min(others, key=lambda m: fmean(found[m]))
    level = _stricter(list(found.values()))
    numbers = f"over {title(nearest)} {_numbers(summarise(found[nearest], level), '.1f')}"
    numbers += f" at {100 * level:.1f} %" if len(found[nearest]) > 1 else ""
    decided = _every(list(found.values()))
    return Claim(words=words, source="Section 6.1.2", verdict=decided, numbers=numbers)
