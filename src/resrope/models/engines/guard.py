"""What stands before every reader: unknown model types, and values that no reader can take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from resrope.models.config import rope_from_config
from resrope.models.engines.reading import (
    Reading,
    model_type,
    names,
    reading,
    refused,
    text_part,
)

# How every refusal begins that tells of resrope and not of the engine.
NOT_KNOWN = "resrope "
Reader = Callable[[Mapping[str, Any]], Reading]
# Of head sizes that the classes assume and that are not hidden_size / num_attention_heads.
_OWN_HEAD_DIM = {
    **dict.fromkeys(
        names("cwm flint hrm hy_v3 kolibri1 ministral3 molmo2 muse_glimmer paddleocr_vl qwen4_exp"),
        ("head_dim",),
    ),
    **dict.fromkeys(names("axk2 minicpm3"), ("qk_rope_head_dim",)),
    **dict.fromkeys(names("gemma4 gemma4_unified"), ("global_head_dim", "per_layer_config")),
    "jetmoe": ("kv_channels", "head_dim"),
}
# GPT-J and CodeGen build their table in the model file, with this base and without any rope parameters.
FIXED = frozenset({"gptj", "codegen"})
_FIXED_THETA = 10_000.0
_FIXED_ROTARY_DIM = 64


def guarded(engine: str, name: str, known: frozenset[str]) -> Callable[[Reader], Reader]:
    """Let a reader see only configs of ``known`` model types, and turn what it cannot take into a refusal.

    engine: its name in ``ENGINES``; name: what people call it.
    """

    def guard(read: Reader) -> Reader:
        @wraps(read)
        def safe(config: Mapping[str, Any]) -> Reading:
            text = text_part(config)
            why = _stranger(name, known, text)
            if why is not None:
                return refused(engine, why)
            try:
                return read(config)
            # RuntimeError: torch on numbers that no float32 holds.
            except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
                return refused(engine, f"resrope cannot tell how {name} reads these rope parameters: {error}")

        return safe

    return guard


def _stranger(name: str, known: frozenset[str], text: Mapping[str, Any]) -> str | None:
    """Why a config's rotation is not known; None where it is."""
    kind = model_type(text)
    if kind not in known:
        return f"resrope does not know how {name} rotates {kind} models"
    sizes = _OWN_HEAD_DIM.get(kind)
    if sizes is not None and all(text.get(size) is None for size in sizes):
        return f"resrope does not know the head size of {kind} models without {' or '.join(sizes)}"
    return None


def fixed(engine: str, name: str, config: Mapping[str, Any]) -> Reading:
    """The reading of a GPT-J or CodeGen model: base 10000 on the first rotary_dim features, never scaled."""
    text = text_part(config)
    kept = {k: v for k, v in text.items() if k not in ("rope_scaling", "partial_rotary_factor")}
    plain = {"rotary_dim": _FIXED_ROTARY_DIM, **kept, "rope_theta": _FIXED_THETA, "rope_parameters": {}}
    try:
        lost = rope_from_config(text).specs != rope_from_config(plain).specs
    except (ValueError, TypeError, ArithmeticError):
        lost = True
    sentence = (
        f"{name} rotates {model_type(text)} models with base 10000, unscaled, whatever the config says."
    )
    return reading(engine, plain, [sentence] if lost else [])
