"""The rotary modules inside a loaded transformers model, and what they really compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resrope.models.config import ModelRope
from resrope.rotary import cos_sin
from resrope.spec import Frequencies

_BUFFER = "inv_freq"
# Positions at which every module is asked for its cos and sin: stock arithmetic is good to 1e-5 at the near
# ones and wrong by 1e-2 at the far one.
_NEAR = (0, 1, 2, 17, 61)
_FAR = (*_NEAR, 1_000_003)
_TOLERANCE = 1e-5
# Where transformers 4 keeps the rotary module of sliding layers apart from that of the others.
_LOCAL_NAMES = {"rotary_emb_local": "sliding_attention"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RotaryModule:
    """One rotary module. keys: the name it has for a table ("" where it has one) -> our layer type."""

    name: str
    module: nn.Module
    keys: Mapping[str, str]


def rotary_modules(model: nn.Module, rope: ModelRope) -> list[RotaryModule]:
    """Every rotary module of the model's text part, with the layer types it serves.

    Raises ValueError when there is none, when one serves a layer type that the config does not have,
    or when a layer type of the config has no module.
    """
    text = text_config(model)
    found = [
        RotaryModule(name=name, module=module, keys=_keys(name, module, rope))
        for name, module in model.named_modules()
        if _prefixes(module)
        and getattr(getattr(module, "config", None), "model_type", None) == text.model_type
    ]
    served = {layer for one in found for layer in one.keys.values()}
    there = getattr(text, "layer_types", None) or rope.specs
    missing = [layer for layer in rope.specs if layer not in served and (layer in there or not found)]
    if missing:
        raise ValueError(
            f"{type(model).__name__} exposes no rotary module with inv_freq for {', '.join(missing)}: "
            "resrope reaches the models of transformers whose rotary embedding is a module of its own"
        )
    return found


def text_config(model: nn.Module) -> Any:
    """The config of the model's text part. Raises ValueError for anything but a transformers model."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        raise ValueError(f"model must be a transformers model, got {type(model).__name__}")
    return config.get_text_config()


def _prefixes(module: nn.Module) -> list[str]:
    """Names of the module's tables: "" for inv_freq, "x" for x_inv_freq."""
    names = (name for name, _ in module.named_buffers(recurse=False) if name.endswith(_BUFFER))
    prefixes = (name.removesuffix(_BUFFER).removesuffix("_") for name in names)
    return [p for p in prefixes if not p.endswith("original")]


def _keys(name: str, module: nn.Module, rope: ModelRope) -> dict[str, str]:
    prefixes = _prefixes(module)
    if prefixes != [""]:
        return {p: _known(p, name, rope) for p in prefixes}
    last = name.rsplit(".", 1)[-1]
    if len(rope.specs) == 1:
        return {"": next(iter(rope.specs))}
    return {"": _known(last if last in rope.specs else _LOCAL_NAMES.get(last, "full_attention"), name, rope)}


def _known(layer: str, name: str, rope: ModelRope) -> str:
    if layer not in rope.specs:
        raise ValueError(f"{name} rotates {layer} layers, but the config has {', '.join(rope.specs)}")
    return layer


def check_effect(rotary: RotaryModule, key: str, table: Frequencies, *, exact: bool) -> None:
    """Raise RuntimeError unless the module now rotates with ``table``: buffer, dtype, factor, cos and sin.

    exact: at position 1,000,003 as well, where stock arithmetic is far off.
    """
    prefix = f"{key}_" if key else ""
    where = f"{rotary.name}.{prefix}{_BUFFER}"
    inv_freq = getattr(rotary.module, f"{prefix}{_BUFFER}")
    if inv_freq.is_meta:
        raise ValueError(f"{where} has no values yet: apply a method after the weights are loaded")
    if inv_freq.dtype != torch.float32:
        raise RuntimeError(f"{where} is {inv_freq.dtype}, which cannot hold frequencies")
    if not torch.equal(inv_freq.cpu(), torch.tensor(table.inv_freq, dtype=torch.float32)):
        raise RuntimeError(f"{where} is not the table that was asked for")
    scaling = getattr(rotary.module, f"{prefix}attention_scaling")
    if scaling != table.attention_factor:
        raise RuntimeError(f"{where} has attention factor {scaling}, not {table.attention_factor}")
    probes = _FAR if exact else _NEAR
    error = _live_error(rotary.module, key, table, torch.tensor([probes], device=inv_freq.device))
    if not error <= _TOLERANCE * max(1.0, table.attention_factor):
        raise RuntimeError(f"{rotary.name} computes other cos and sin than the table's: off by {error:.2g}")


def differs_from(rotary: RotaryModule, key: str, table: Frequencies) -> bool:
    """Whether the module's live frequencies or factor are not those of ``table``, rounding apart."""
    prefix = f"{key}_" if key else ""
    live = getattr(rotary.module, f"{prefix}{_BUFFER}").detach().float().cpu()
    wanted = torch.tensor(table.inv_freq, dtype=torch.float32)
    scaling = getattr(rotary.module, f"{prefix}attention_scaling")
    same = live.shape == wanted.shape and torch.allclose(live, wanted, rtol=1e-5, atol=0.0)
    return not same or abs(scaling - table.attention_factor) > 1e-6 * table.attention_factor


def _live_error(module: nn.Module, key: str, table: Frequencies, positions: Tensor) -> float:
    """The largest difference between the module's cos and sin and the table's, in the module's own layout."""
    kwargs = {"layer_type": key} if key else {}
    x = torch.zeros(1, device=positions.device)
    with torch.no_grad():
        try:
            out = module(x, positions, **kwargs)
        except IndexError:  # multimodal rotation of transformers 4: a position for each of three axes
            out = module(x, positions.expand(3, -1, -1), **kwargs)
    live = (out.real, out.imag) if isinstance(out, Tensor) else out
    wanted = [t * table.attention_factor for t in cos_sin(table, positions[0])]
    layouts = ([_relaid(t, layout) for t in wanted] for layout in ("half", "interleaved", "single"))
    return min(_difference(live, layout) for layout in layouts)


def _relaid(features: Tensor, layout: str) -> Tensor:
    if layout == "single":
        return features
    return torch.cat((features, features), -1) if layout == "half" else features.repeat_interleave(2, -1)


def _difference(live: tuple[Tensor, ...], wanted: list[Tensor]) -> float:
    if any(a.shape[-1] != b.shape[-1] for a, b in zip(live, wanted, strict=True)):
        return float("inf")
    return max(float((a.float() - b).abs().max()) for a, b in zip(live, wanted, strict=True))
