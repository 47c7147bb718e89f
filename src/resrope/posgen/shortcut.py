"""The shortcut in PosGen: with h = sum, most tokens follow from the last few alone.

Subtracting the equations of two neighbouring generated tokens cancels the sources they share:
x_l − x_{l−1} = ΣS(l) − ΣS(l−1) mod m. The front tokens of S(l) and S(l−1) are the same wherever the
pointer stood still, and what is left, x_l = 2·x_{l−1} − x_{l−1−k}, no longer names them. Accuracy
at such positions says nothing about finding the far token. Rules for other h, and longer ones: locality.
"""

from __future__ import annotations

from collections import Counter

from resrope.posgen.tasks import Task


def shortcut(task: Task, position: int) -> dict[int, int] | None:
    """x_position as a linear combination mod m of the last j+k+1 tokens, where telescoping gives one.

    Returns {distance: coefficient} with x_l = Σ coefficient · x_{l−distance} mod m and distances in
    1 … j+k+1: {1: 2, 4: −1} for cot with j = 1, k = 3. None where x_{l−1} is not itself generated or
    a term further back survives. Raises ValueError for h other than "sum" and inside the prefix.
    """
    if task.h != "sum":
        raise ValueError(f"a shortcut is known for h = 'sum' only, got h = {task.h!r}")
    terms = Counter(task.sources(position))
    if position == task.prefix_length:
        return None
    terms[position - 1] += 1
    terms.subtract(task.sources(position - 1))
    rule = {position - source: c for source, c in sorted(terms.items()) if c % task.modulus}
    return rule if max(rule, default=0) <= task.prefix_length + 1 else None


def shortcut_accuracy(task: Task, length: int) -> float:
    """The accuracy, over generated positions, of a model that knows the shortcut and nothing else.

    1 where `shortcut` has a rule and chance, 1/m, elsewhere: 59/60 + 1/(60·17) = 98.4 % for cot at
    length 64. Raises ValueError for h other than "sum" and for a length without generated tokens.
    """
    if length <= task.prefix_length:
        raise ValueError(f"length must be > j+k = {task.prefix_length}, got {length}")
    positions = range(task.prefix_length, length)
    solved = sum(shortcut(task, position) is not None for position in positions)
    return (solved + (len(positions) - solved) / task.modulus) / len(positions)
