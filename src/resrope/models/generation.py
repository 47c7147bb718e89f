"""Dynamic NTK in generation: one base from the first token to the last that the call may reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn


def follow_generation(model: nn.Module, serve: Callable[[int], None]) -> None:
    """Make ``model.generate`` call ``serve`` with the length it may reach before it reads anything.

    transformers recomputes dynamic frequencies whenever the sequence outgrows the last ones, while the
    keys in the cache keep the rotation of their time: queries and keys then disagree about every
    distance. Known before the first token, the base never changes.
    """
    stop_following(model)
    stock = getattr(model, "generate", None)
    if stock is None:
        return

    @wraps(stock)
    def generate(inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        serve(reach(model, inputs, generation_config, kwargs))
        return stock(inputs, generation_config, **kwargs)

    model.generate = generate  # type: ignore[assignment]


def stop_following(model: nn.Module) -> None:
    """Give ``model`` the ``generate`` of its class back."""
    model.__dict__.pop("generate", None)


def reach(model: nn.Module, inputs: Any, generation_config: Any, kwargs: dict[str, Any]) -> int:
    """Tokens, prompt and answer together, that a call of ``generate`` with these arguments may reach.

    Raises ValueError when nothing limits it, or when it goes on from a cache: the keys in there were
    rotated for another length.
    """
    cache = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            "dynamic NTK cannot go on from a cache, whose keys were rotated for another length: "
            "apply it with length= the longest that will be reached"
        )
    config = generation_config if generation_config is not None else getattr(model, "generation_config", None)

    def asked(name: str) -> int | None:
        return kwargs[name] if kwargs.get(name) is not None else getattr(config, name, None)

    prompt = next(
        (t for t in (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if t is not None), None
    )
    start = 0 if prompt is None else int(prompt.shape[1])
    new, longest = asked("max_new_tokens"), asked("max_length")
    if new is None and longest is None:
        raise ValueError(
            "dynamic NTK needs to know how long the text may get: pass max_new_tokens or max_length"
        )
    return start + new if new is not None else max(start + 1, int(longest or 0))
