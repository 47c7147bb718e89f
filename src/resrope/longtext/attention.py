"""Causal attention of a chunk on all that came before it, on a CPU: no mask, no repeated keys.

transformers hands a chunk that follows a cache to scaled_dot_product_attention with a mask of [chunk,
length] and with every key/value head repeated for its group of queries. Both cost time and memory that the
mathematics does not need: all queries of a group see the whole prefix, and only the chunk's own square is
causal. The two parts are softmaxes over disjoint keys, so their outputs mix with the weights of their
log-sum-exps (the merge of FlashAttention, arXiv 2205.14135).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "resrope_chunked"
# Queries whose causal square is left to the kernel, which is slow there.
_SQUARE = 128
# Tokens of each of the two chunks that are read to see whether a model can use it.
_PROBE = 12


def register() -> str:
    """Make the attention known to transformers; returns the name for ``set_attn_implementation``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME


@torch.inference_mode()
def install_where_right(model: Any) -> None:
    """Make ``model`` use it if its logits, read in two chunks, are then those that it had in one.

    Models that read the mask themselves cannot do without one: they keep what they have.
    """
    before = model.config._attn_implementation
    ids = torch.arange(2 * _PROBE, device=model.device)[None] % model.config.get_text_config().vocab_size
    wanted = model(input_ids=ids, use_cache=False).logits[0, _PROBE:]
    model.set_attn_implementation(register())
    try:
        first = model(input_ids=ids[:, :_PROBE], use_cache=True)
        second = model(input_ids=ids[:, _PROBE:], past_key_values=first.past_key_values, use_cache=True)
        right = torch.allclose(second.logits[0], wanted, rtol=0.0, atol=_apart(wanted))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        right = False
    if not right:
        model.set_attn_implementation(before)


def _apart(logits: Tensor) -> float:
    """How far logits may lie from each other by rounding alone: in float32 a thousandth of their spread."""
    return 3 * math.sqrt(torch.finfo(logits.dtype).eps) * float(logits.float().std())


def chunk_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Attention of the last ``chunk`` positions on all ``length`` positions up to their own.

    query: [batch, heads, chunk, head_dim]; key, value: [batch, key/value heads, length, their head_dim], the
    chunk's own at the end. scale: of the scores, head_dim^-0.5 where left out. Returns [batch, heads, chunk,
    value's head_dim].
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    width = value.shape[-1]
    if width < key.shape[-1]:  # the kernel takes one head_dim for both; zeros add nothing
        value = F.pad(value, (0, key.shape[-1] - width))
    attended, _ = _attend(query, key, value, scale)
    return attended[..., :width]


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the scores: the prefix apart from the queries' own square, which is halved
    until it is small: in the halves below its diagonal every query sees every key, which is what is fast."""
    chunk, past = query.shape[2], key.shape[2] - query.shape[2]
    if past:
        own = _attend(query, key[:, :, past:], value[:, :, past:], scale)
        return _mixed(own, _all_seen(query, key[:, :, :past], value[:, :, :past], scale))
    if chunk > _SQUARE:
        half = chunk // 2
        first = _attend(query[:, :, :half], key[:, :, :half], value[:, :, :half], scale)
        second = _attend(query[:, :, half:], key, value, scale)
        return torch.cat([first[0], second[0]], 2), torch.cat([first[1], second[1]], 2)
    group = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, 1) for t in (key, value))
    return _flash(query, key, value, scale, causal=True)


def _all_seen(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """All keys for every query, those of a group packed side by side."""
    batch, heads, chunk, head_dim = query.shape
    packed = query.reshape(batch, key.shape[1], heads // key.shape[1] * chunk, head_dim)
    out, weight = _flash(packed, key, value, scale, causal=False)
    return out.reshape(query.shape), weight.reshape(batch, heads, chunk)


def _mixed(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two softmaxes over disjoint keys as one."""
    share = torch.sigmoid(other[1] - one[1]).unsqueeze(-1)
    return torch.lerp(one[0], other[0], share.to(one[0].dtype)), torch.logaddexp(one[1], other[1])


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Output [batch, heads, queries, head_dim] and log-sum-exp of the scores [batch, heads, queries]."""
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, weight = op(q, k, v, 0.0, causal, scale=scale)
    return out, weight


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; whatever needs a mask goes to its own sdpa."""
    asked = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if asked:
        raise ValueError(f"attention with {', '.join(asked)} needs --attn eager")
    if attention_mask is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        done: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return done
    return chunk_attention(query, key, value, scaling).transpose(1, 2).contiguous(), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask where attention is causal and nothing more, else that of sdpa (windows, chunked layers)."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    plain = kwargs.get("mask_function") is causal_mask_function
    if plain and _no_padding(kwargs) and _no_keys_ahead(kwargs):
        return None
    made: Tensor | None = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    return made


def _no_padding(kwargs: dict[str, Any]) -> bool:
    """Whether all keys count: generate always hands over a mask [batch, length], of ones for one prompt."""
    mask, keys = kwargs.get("attention_mask"), kwargs["kv_length"]
    # transformers takes keys for padding that a mask does not reach.
    return mask is None or (mask.shape[-1] >= keys and bool(mask[..., :keys].all()))


def _no_keys_ahead(kwargs: dict[str, Any]) -> bool:
    """Whether the chunk's own keys are the last: a static cache has room for later ones."""
    if "cache_position" in kwargs:  # transformers 4
        return bool(kwargs["cache_position"][-1] + 1 == kwargs["kv_length"])
    return bool(kwargs["q_offset"] + kwargs["q_length"] == kwargs["kv_length"])
