"""Dynamic NTK in generation: one base from the first token to the last that the call may reach."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

Serve = Callable[[nn.Module, "int | None"], None]
# What transformers generates where nothing says how much.
_NEW_TOKENS = 20


class FollowedGenerate:
    """``model.generate`` that first calls ``serve`` with the length it may reach, and at the end with None.

    transformers recomputes dynamic frequencies whenever the sequence outgrows the last ones, while the
    keys in the cache keep the rotation of their time: queries and keys then disagree about every
    distance. Known before the first token, the base never changes. Copies and pickles with its model.
    """

    def __init__(self, model: nn.Module, serve: Serve) -> None:
        self.model = model
        self.serve = serve

    def __call__(self, inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ``generate`` of the model's class."""
        cls: Any = type(self.model)
        self.serve(self.model, reach(self.model, inputs, generation_config, kwargs))
        try:
            return cls.generate(self.model, inputs, generation_config, *args, **kwargs)
        finally:
            self.serve(self.model, None)


def follow_generation(model: nn.Module, serve: Serve) -> None:
    """Give ``model`` a ``generate`` that tells ``serve`` the length before it reads anything."""
    if hasattr(type(model), "generate"):
        model.__dict__["generate"] = FollowedGenerate(model, serve)


def stop_following(model: nn.Module) -> None:
    """Give ``model`` the ``generate`` of its class back."""
    model.__dict__.pop("generate", None)


def reach(model: Any, inputs: Any, generation_config: Any, kwargs: dict[str, Any]) -> int:
    """Tokens, prompt and answer together, that a call of ``generate`` with these arguments may reach.

    Raises ValueError when it goes on from a cache: the keys in there were rotated for another length.
    """
    cache = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            "dynamic NTK cannot go on from a cache, whose keys were rotated for another length: "
            "apply it with length= the longest that will be reached"
        )
    # The same merge of the call, its generation config and the model's own that generate makes.
    merged, _ = model._prepare_generation_config(copy.deepcopy(generation_config), **kwargs)
    given = (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    prompt = next((t for t in given if t is not None), None)
    start = 1 if prompt is None else int(prompt.shape[1])
    if merged.max_new_tokens is not None:
        return start + int(merged.max_new_tokens)
    return max(start + _NEW_TOKENS, int(merged.max_length or 0))
