"""Native rope types for transformers: a ``rope_type`` in a config is then enough for ``from_pretrained``."""

from __future__ import annotations

from typing import Any

from resrope.models.config import rope_from_config, wide_layers
from resrope.models.scaling import RESONANCE, scaling_from_parameters
from resrope.spec import LongRope, frequencies

TYPES = (
    RESONANCE,
    *(f"{RESONANCE}_{name}" for name in ("linear", "ntk", "dynamic", "yarn", "llama3", "longrope")),
    "ntk",
)


def register() -> tuple[str, ...]:
    """Teach this process's transformers resrope's rope types; returns their names.

    ``resonance`` is plain RoPE with integer wavelengths, ``resonance_yarn`` and the others a scaling
    with them, ``ntk`` NTK-aware scaling without. Parameters are those of transformers' types; a wrong
    one is a ValueError when the config is made. Unlike transformers' ``dynamic``, resonance_dynamic
    keeps one base: for ``seq_len`` of its parameters, else for factor · max_position_embeddings.
    Works with transformers 4 and 5; a process that has not called it cannot build such a model.
    """
    from transformers import modeling_rope_utils as rope_utils

    for name in TYPES:
        rope_utils.ROPE_INIT_FUNCTIONS[name] = _initialise
        mixin = getattr(rope_utils, "RotaryEmbeddingConfigMixin", None)
        if mixin is not None:
            setattr(mixin, f"_validate_{name}_rope_parameters", _validate)
        else:
            rope_utils.ROPE_VALIDATION_FUNCTIONS[name] = _validate_4  # type: ignore[attr-defined]
    return TYPES


def _initialise(
    config: Any, device: Any = None, seq_len: int | None = None, layer_type: str | None = None, **_: Any
) -> tuple[Any, float]:
    """[rotary_dim/2] float32 inverse frequencies and the attention factor, as transformers asks for them.

    seq_len, the length that is running, is not used: keys in a cache keep the base of their time.
    """
    import torch

    rope = rope_from_config(config.to_dict())
    spec = rope.specs[layer_type or wide_layers(tuple(rope.specs))[0]]
    serves = rope.max_position_embeddings if isinstance(spec.scaling, LongRope) else None
    table = frequencies(spec, seq_len=serves)
    return torch.tensor(table.inv_freq, dtype=torch.float32, device=device), table.attention_factor


def _check(config: Any, given: dict[str, Any], ignore_keys: set[str] | None) -> None:
    values = {k: v for k, v in given.items() if v is not None and k not in (ignore_keys or ())}
    scaling_from_parameters(
        values,
        nested=False,
        max_length=config.max_position_embeddings,
        outer_original=getattr(config, "original_max_position_embeddings", None),
    )


def _validate(self: Any, rope_parameters: dict[str, Any], ignore_keys: set[str] | None = None) -> None:
    _check(self, rope_parameters, ignore_keys)


def _validate_4(config: Any, ignore_keys: set[str] | None = None) -> None:
    _check(config, config.rope_scaling, ignore_keys)
