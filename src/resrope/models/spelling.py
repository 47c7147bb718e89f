"""Rope parameters where every loader finds them: in the words of transformers 5 and of transformers 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resrope.models.config import wide_layers
from resrope.models.engines.reading import model_type
from resrope.models.engines.transformers import NEOX, PHI3

_LOCAL_THETA = {"gemma3": "rope_local_base_freq", "gemma3n": "rope_local_base_freq"}
# transformers 4 has two bases for these and no scaling: nothing that rope_scaling could say.
_MODERN_ONLY = ("modernbert", "modernbert-decoder")
# transformers 4 takes just these keys here, and no attention factor.
_ONLY_KEYS = {
    **dict.fromkeys(PHI3, ("type", "short_factor", "long_factor")),
    **dict.fromkeys(("olmo", "olmo2"), ("type", "factor")),
}

# What leaving these out means.
_SILENT = {"attention_factor": 1.0, "factor": 1.0}


def write_both(text: dict[str, Any], by_layer: Mapping[str, Mapping[str, Any]]) -> None:
    """Put rope_parameters by layer type ("default" where there is one) into ``text``, in both spellings.

    transformers 5 reads rope_parameters. transformers 4 and most other loaders read rope_theta and
    rope_scaling beside it, for the layers without a sliding window, and Gemma 3's rope_local_base_freq.
    """
    text["rope_parameters"] = dict(by_layer["default"]) if "default" in by_layer else dict(by_layer)
    kind = model_type(text)
    if kind in _MODERN_ONLY:
        return
    wide = wide_layers(tuple(by_layer))
    main = by_layer[wide[0]]
    theta, share = (
        ("rotary_emb_base", "rotary_pct") if kind in NEOX else ("rope_theta", "partial_rotary_factor")
    )
    for name, key in ((theta, "rope_theta"), (share, "partial_rotary_factor")):
        if main.get(key) is not None:
            text[name] = main[key]
    local = [p["rope_theta"] for layer, p in by_layer.items() if layer not in wide and "rope_theta" in p]
    if local and kind in _LOCAL_THETA:
        text[_LOCAL_THETA[kind]] = local[0]
    _write_scaling(text, kind, main)


def _write_scaling(text: dict[str, Any], kind: str, main: Mapping[str, Any]) -> None:
    scaling = {k: v for k, v in main.items() if k not in ("rope_theta", "partial_rotary_factor")}
    if set(scaling) == {"rope_type"} and scaling["rope_type"] == "default":
        if text.get("rope_scaling") is not None:
            text["rope_scaling"] = None
        return
    # Loaders older than rope_type look for type.
    legacy = {**scaling, "type": scaling.get("rope_type", "default")}
    only = _ONLY_KEYS.get(kind, ())
    if only and set(only) <= set(legacy) and not _told_by_others(legacy, only):
        original = legacy.get("original_max_position_embeddings")
        if original is not None:
            text.setdefault("original_max_position_embeddings", original)
        legacy = {k: legacy[k] for k in only}
    text["rope_scaling"] = legacy


def _told_by_others(scaling: Mapping[str, Any], only: tuple[str, ...]) -> set[str]:
    """The keys besides ``only`` that say more than their absence would."""
    said = {"rope_type", "original_max_position_embeddings", *only}
    return {k for k, v in scaling.items() if k not in said and v != _SILENT.get(k)}
