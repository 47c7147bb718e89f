"""What rules on the last tokens score alone: what a task measures, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from resrope.page import Grid
from resrope.posgen.locality import copied, given_away, kinds, local_accuracy, windows
from resrope.posgen.tasks import Task
from resrope.posgen.titles import title

# In tokens of j+k: how far the rules of the table's columns read.
_WINDOWS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """One task. windows: accuracy from 0 to 1 of rules on so many last tokens. copying: of repeating what
    followed the last k tokens when they stood there last. near, chained, far: shares of the positions.
    reads, hidden: so many tokens training reads at most, and what share of the positions no rule on them
    gives. chance: of a guess. All over the positions train_length … test_length − 1."""

    task: str
    h: str
    windows: dict[int, float]
    copying: float
    near: float
    chained: float
    far: float
    reads: int
    hidden: float
    chance: float

    @property
    def far_dependent(self) -> bool:
        """Whether most tokens need one that must be found by its position, as far as rules are known."""
        return self.hidden > 0.5


def rules(task: Task, train_length: int, test_length: int) -> Rules:
    """Rules against ``task`` beyond the training length."""
    beyond = np.arange(test_length) >= train_length
    shares = {kind: float(mask[beyond].mean()) for kind, mask in kinds(task, test_length).items()}
    reads = train_length - 1
    reading = {n * task.prefix_length for n in _WINDOWS} | set(windows(task))
    return Rules(
        task=task.name,
        h=task.h if isinstance(task.h, str) else getattr(task.h, "__name__", "h"),
        windows={w: float(local_accuracy(task, test_length, w)[beyond].mean()) for w in sorted(reading)},
        copying=float(copied(task, test_length)[beyond].mean()),
        reads=reads,
        hidden=float((~given_away(task, test_length, reads))[beyond].mean()),
        chance=1 / task.modulus,
        **shares,
    )


def to_dict(found: Rules) -> dict[str, object]:
    """JSON types."""
    return {**asdict(found), "far_dependent": found.far_dependent}


def grid(found: Sequence[Rules], train_length: int, test_length: int) -> Grid:
    """A row for every task and h."""
    header = ["accuracy, %", *(f"{w} tokens" for w in found[0].windows), "copying"]
    header += ["near", "chained", "far", f"beyond {found[0].reads}", "far-dependent"]
    rows = [
        [
            f"{title(one.task)}, {one.h}",
            *(f"{100 * share:.1f}" for share in (*one.windows.values(), one.copying)),
            *(f"{100 * share:.0f}" for share in (one.near, one.chained, one.far, one.hidden)),
            "yes" if one.far_dependent else "no",
        ]
        for one in found
    ]
    return Grid(
        f"What rules score alone at positions {train_length} – {test_length - 1}",
        header,
        rows,
        "Of the best rule known on so many last tokens, where the front token is not among them; copying: "
        "what followed the last k tokens when they stood there last. near, chained, far: per cent of the "
        f"positions whose token a rule on j+k+1 tokens gives, one on 4·(j+k), or neither; beyond "
        f"{found[0].reads}: none on as many as training reads. far-dependent: those are more than half. "
        "Rules are derived where h is a permutation in every argument; of other h they are the best known, "
        f"counted on sequences: a better one may exist. Chance is {100 * found[0].chance:.1f} %.",
    )
