"""A config whose rotary parameters every loader finds: both spellings, by layer type where that is needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from resrope.models.config import innermost, rope_from_config
from resrope.models.engines.reading import model_type, nested, parameters, spelled_type
from resrope.models.engines.transformers import BY_LAYER, NEOX
from resrope.models.findings import assumed_thetas
from resrope.models.spelling import write_both


def repaired(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with rope_parameters, rope_theta and rope_scaling saying the same; all else as it was.

    rope_parameters are by layer type where the architecture wants that. Raises ValueError where it is not
    certain what the config means: two spellings that differ, a missing base that loaders assume differently,
    an unknown type or key.
    """
    out = copy.deepcopy(dict(config))
    text = innermost(out)
    means = rope_from_config(_certain(text))
    layers = _layers(text)
    write_both(text, layers)
    again = rope_from_config(out)
    if again.specs != means.specs:
        raise ValueError("the repair would change the table; the config has to be edited by hand")
    return out


def _certain(text: Mapping[str, Any]) -> dict[str, Any]:
    """``text`` with a missing base filled in, where every loader assumes the same."""
    assumed = set(assumed_thetas(text).values())
    try:
        _theta(text)
    except KeyError:
        if len(assumed) != 1 or None in assumed:
            raise ValueError("rope_theta is missing and loaders assume different ones; give it") from None
    return dict(text)


def _theta(text: Mapping[str, Any]) -> Any:
    new, old = parameters(text, "rope_parameters"), parameters(text, "rope_scaling")
    wide = nested(new).get("full_attention", new)
    names = (
        ("rotary_emb_base", "rope_theta") if model_type(text) in NEOX else ("rope_theta", "global_rope_theta")
    )
    for given in (old, wide, text):
        for name in names:
            if given.get(name) is not None:
                return given[name]
    raise KeyError("rope_theta")


def _layers(text: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters by layer type, "default" alone where there is one, in the spelling of transformers 5."""
    new, old = parameters(text, "rope_parameters"), parameters(text, "rope_scaling")
    by_layer, kind = nested(new), model_type(text)
    if by_layer:
        return {layer: _modern(part, part.get("rope_theta")) for layer, part in by_layer.items()}
    try:
        theta = _theta(text)
    except KeyError:
        theta = assumed_thetas(text)["transformers-5"]
    full = _modern(new or old, theta)
    if kind not in BY_LAYER:
        return {"default": full}
    specs = rope_from_config(text).specs
    if "sliding_attention" not in specs:
        given = ", ".join(specs)
        raise ValueError(f"layers must be full_attention and sliding_attention, got {given}; edit it by hand")
    sliding = {"rope_theta": specs["sliding_attention"].rope_theta, "rope_type": "default"}
    return {"full_attention": full, "sliding_attention": sliding}


def _modern(given: Mapping[str, Any], theta: Any) -> dict[str, Any]:
    kind = spelled_type(given)
    if not isinstance(kind, str):
        raise ValueError(f"rope_type must be a name, got {kind!r}")
    kind = {"su": "longrope", "mrope": "default"}.get(kind, kind)
    rest = {k: v for k, v in given.items() if k not in ("type", "rope_type", "rope_theta")}
    return {"rope_type": kind, **({} if theta is None else {"rope_theta": theta}), **rest}
