"""Is a method worth it, and what does it cost on short prompts? One verdict per method, with its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resrope.longtext.candidates import OWN
from resrope.longtext.curves import Ratio, Tally, ratios
from resrope.longtext.retrieval import Retrieval
from resrope.longtext.study import Study
from resrope.longtext.windows import SHORTEST, doubling

# Perplexity relative to what the unchanged model has inside its context: up to here a method holds, up to
# there it degrades, beyond it is broken.
_HOLDS, _BREAKS = 1.1, 2.0
# A rise of perplexity inside the trained context that is worth a word, and one that is a real price.
_NOTICED, _PRICE = 1.005, 1.05
# Tokens of the shortest block.
_SMALLEST = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One method against the unchanged model.

    short: perplexity of the first tokens over the unchanged model's, by length inside the trained context.
    beyond: perplexity of all tokens beyond it. reference: the unchanged model's, of the tokens in the second
    half of its context. broken_from: start of the first block beyond whose perplexity is twice the reference.
    found: shares of passkeys, inside and beyond, None where none were hidden. words: the verdict.
    """

    method: str
    short: dict[int, Ratio]
    beyond: float
    reference: float
    broken_from: int | None
    found: tuple[float | None, float | None]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        short = {str(n): {"ratio": r.ratio, "low": r.low, "high": r.high} for n, r in self.short.items()}
        return {
            "verdict": self.words,
            "short": short,
            "beyond": self.beyond,
            "reference": self.reference,
            "beyond_ratio": self.beyond / self.reference,
            "broken_from": self.broken_from,
            "passkey_inside": self.found[0],
            "passkey_beyond": self.found[1],
        }


def verdicts(study: Study, retrieval: Retrieval | None = None) -> list[Verdict]:
    """One for every method of ``study``, the unchanged model (``own``, which must be among them) first.

    Raises ValueError unless the study's lengths lie on both sides of that model's context, its own length
    among them.
    """
    native, own = study.native, study.methods[OWN]
    if native is None or native not in study.protocol.lengths or native >= study.protocol.longest:
        raise ValueError(f"lengths must go up to the {native} tokens that the model serves, and beyond")
    near = _inside(study, native // 2, native) or _inside(study, 0, native)
    reference = _perplexity(own.by_block, near)
    made = []
    for label, measured in study.methods.items():
        short = zip(study.protocol.lengths, ratios(measured.by_length, own.by_length), strict=True)
        blocks = measured.by_block.perplexity()
        far = _inside(study, native, study.protocol.longest)
        broken = (i for i in far if (blocks[i] or 0.0) > _BREAKS * reference)
        first = next(broken, None)
        made.append(
            _judged(
                method=label,
                short={n: r for n, r in short if n <= native and r is not None},
                beyond=_perplexity(measured.by_block, far),
                reference=reference,
                broken_from=None if first is None else study.protocol.blocks[first].start,
                found=_found(retrieval, label, native),
                target=study.protocol.longest,
            )
        )
    return made


def _inside(study: Study, start: int, end: int) -> list[int]:
    """The blocks from ``start`` to ``end``."""
    return [i for i, b in enumerate(study.protocol.blocks) if start <= b.start and b.end <= end]


def _perplexity(tally: Tally, cells: Sequence[int]) -> float:
    chosen = list(cells)
    return float(np.exp(tally.nats[:, chosen].sum() / tally.tokens[:, chosen].sum()))


def _found(retrieval: Retrieval | None, label: str, native: int) -> tuple[float | None, float | None]:
    if retrieval is None:
        return None, None
    cells = retrieval.methods[label]
    sides = [[c for c in cells if c.length <= native], [c for c in cells if c.length > native]]
    inside, beyond = (sum(c.correct for c in s) / sum(c.trials for c in s) if s else None for s in sides)
    return inside, beyond


def _judged(*, target: int, **numbers: Any) -> Verdict:
    plain = Verdict(words="", **numbers)
    words = f"{_reach(plain, target)}; {_cost(plain)}" + _keys(plain)
    return Verdict(words=words, **numbers)


def _reach(v: Verdict, target: int) -> str:
    worse = v.beyond / v.reference
    if v.broken_from is not None:
        return f"breaks at {v.broken_from} tokens (perplexity beyond × {worse:.2f})"
    if worse > _HOLDS:
        return f"degrades beyond (perplexity × {worse:.2f})"
    return f"holds to {target} tokens (perplexity beyond × {worse:.2f})"


def _cost(v: Verdict) -> str:
    if v.method == OWN:
        return "the model as it is"
    length, worst = max(v.short.items(), key=lambda item: item[1].ratio)
    rise = f"{100 * (worst.ratio - 1):.1f} % at {length} tokens"
    if worst.ratio < _NOTICED:
        return "costs nothing inside"
    return f"costs {rise}" if worst.ratio > _PRICE else f"costs little inside, {rise}"


def _keys(v: Verdict) -> str:
    inside, beyond = v.found
    told = [
        f"{100 * share:.0f} % {where}"
        for share, where in ((inside, "inside"), (beyond, "beyond"))
        if share is not None
    ]
    return f"; finds {' and '.join(told)} of the passkeys" if told else ""


def lengths_around(native: int | None, target: int) -> tuple[int, ...]:
    """512, 1024, … to the model's own context, then the target.

    Raises ValueError where the target does not lie beyond that context, or it is not known.
    """
    if native is None or target <= native:
        raise ValueError(f"target must lie beyond the {native} tokens that the model serves, got {target}")
    return (*doubling(max(1, min(SHORTEST, native // 2)), native), target)


def even_block(native: int, target: int) -> int:
    """The largest divisor of ``native`` up to an eighth of it and to what lies beyond.

    So no block lies on both sides of it; where there is none, all of it, if as much lies beyond.

    >>> even_block(8192, 16384), even_block(8192, 8300), even_block(2047, 4096)
    (1024, 64, 89)

    Raises ValueError for a target so near that no block lies beyond.
    """
    beyond = target - native
    fits = [d for d in range(_SMALLEST, min(native // 8, beyond) + 1) if native % d == 0]
    if not fits and beyond < native:
        raise ValueError(f"target must lie further beyond the {native} tokens the model serves, got {target}")
    return max(fits, default=native)


def _rank(v: Verdict) -> tuple[bool, bool, float, float]:
    """The better first: what breaks nowhere, what holds, what finds more passkeys beyond, what reads best."""
    return v.broken_from is not None, v.beyond > _HOLDS * v.reference, -(v.found[1] or 0.0), v.beyond


def _best(others: Sequence[Verdict]) -> Verdict:
    """The first by rank; of those that read no worse by more than is worth a word, the cheapest inside."""
    first = min(others, key=_rank)
    *classes, beyond = _rank(first)
    near = [v for v in others if list(_rank(v)[:-1]) == classes and v.beyond <= _NOTICED * beyond]
    return min(near, key=_dearest)


def _dearest(v: Verdict) -> float:
    """Its worst perplexity inside the context over that of the model as it is."""
    return max(r.ratio for r in v.short.values())


def _gains(best: Verdict, own: Verdict) -> bool:
    """Whether it is better than the model as it is by more than what is not worth a word."""
    *classes, beyond = _rank(best)
    *own_classes, own_beyond = _rank(own)
    return classes < own_classes or (classes == own_classes and own_beyond > _NOTICED * beyond)


def conclusion(found: Sequence[Verdict]) -> str:
    """The answer to the question, in one sentence. Raises ValueError without a method beside ``own``."""
    own, *others = found
    if not others:
        raise ValueError("a comparison needs a method beside own")
    best = _best(others)
    price = 100 * (_dearest(best) - 1)
    if not _gains(best, own):
        return f"Not worth it: beyond its context the model as it is does no worse than with {best.method}."
    if best.broken_from is not None:
        return f"Not worth it: every method breaks, the best, {best.method}, at {best.broken_from} tokens."
    reads = "holds" if best.beyond <= _HOLDS * best.reference else "degrades, but breaks nowhere"
    keys = "" if best.found[1] is None else f" and finds {100 * best.found[1]:.0f} % of the passkeys there"
    cost = (
        f"it costs {price:.1f} % on short prompts"
        if price >= 100 * (_NOTICED - 1)
        else "it costs nothing inside"
    )
    where = "Worth it where prompts are long, not as a default" if price > 100 * (_PRICE - 1) else "Worth it"
    if reads != "holds" or best.found[1] == 0.0:
        where = "A compromise"
    return f"{where}: {best.method} does best beyond, where it {reads}{keys}; {cost}."
