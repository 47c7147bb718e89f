"""The turns of a chat as one text, in the words of a tokenizer's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

Turn = Mapping[str, str]


def rendered(tokenizer: Any, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> str:
    """``turns`` (role, content) as the template writes them, the answer's beginning behind them or, without
    ``add_generation_prompt``, the last turn left open.

    A template that takes no system turn gets its text at the beginning of the turn after it. Raises
    ValueError for a template that cannot be used.
    """
    try:
        text = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
    except TemplateError as error:
        if len(turns) > 1 and turns[0]["role"] == "system":
            return rendered(tokenizer, _merged(*turns), add_generation_prompt=add_generation_prompt)
        why = " ".join(str(error).split())
        raise ValueError(f"{tokenizer.name_or_path}: its chat template cannot be used: {why}") from error
    return str(text)


def _merged(system: Turn, first: Turn, *rest: Turn) -> list[Turn]:
    return [{**first, "content": system["content"] + first["content"]}, *rest]
