"""Tasks and methods as the paper writes them."""

from __future__ import annotations

from resrope.pictures import title as method_title

TASK_TITLES = {"recursive": "Recursive", "cot": "CoT", "semi-recursive": "Semi-recursive"}


def title(name: str) -> str:
    """A task's or method's name as the paper writes it; a user's ``module:Class`` as it is."""
    return name if ":" in name else TASK_TITLES.get(name) or method_title(name)
