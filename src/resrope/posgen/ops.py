"""The four differentiable steps of a decoder layer, each written out with its backward pass.

Plain autograd would compute the same; these save passes over memory, which on a CPU cost as much
as a quarter of the matrix products. Three ideas carry the file:
- an RMSNorm's gain is folded into the weight behind it, and dropout's scale into the factor of the
  next sum, so neither touches the activations;
- a kept, positive value is its own mask, so ReLU and attention dropout store none;
- a head's pairs are complex numbers, so a rotation is one complex product, and that product also
  moves the heads to the front.

Functions here take any float dtype; `tests/posgen/test_model.py` checks them in float64.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from resrope.posgen.dropout import Mask, keep_where_above

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h


def keep_heap() -> bool:
    """Let this process keep freed memory for its next allocation; True where glibc is in use.

    By default glibc returns every large tensor to the kernel, and the next step pays for mapping
    and zeroing the same pages again. Call once, before training. The process then holds its peak
    memory until it ends. Elsewhere (musl, macOS, Windows) nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}
    return all(libc.mallopt(key, value) == 1 for key, value in settings.items())


class _NormLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, eps: float, mask: Mask | None) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * rstd
        kept = unit if mask is None else mask.kept(unit)
        ctx.save_for_backward(unit, kept, rstd, gain, weight)
        ctx.mask = mask
        return kept @ (weight * gain).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, kept, rstd, gain, weight = ctx.saved_tensors
        grad_folded = (kept.t() @ grad).t()  # a tenth faster than grad.t() @ kept
        grad_unit = grad @ (weight * gain)
        if ctx.mask is not None:
            ctx.mask.kept_(grad_unit)
        along = (grad_unit * unit).mean(-1, keepdim=True)
        grad_x = grad_unit.addcmul_(unit, along, value=-1).mul_(rstd)
        return grad_x, (grad_folded * weight).sum(0), grad_folded * gain, None, None


def norm_linear(x: Tensor, gain: Tensor, weight: Tensor, *, eps: float, mask: Mask | None = None) -> Tensor:
    """Return mask(x / rms(x) * gain) @ weight.T, rms(x) = sqrt(mean(x^2) + eps) (arXiv 1910.07467).

    x: [tokens, d_in]; gain: [d_in]; weight: [d_out, d_in]. Returns [tokens, d_out].
    """
    return _NormLinear.apply(x, gain, weight, eps, mask)  # type: ignore[no-any-return, no-untyped-call]


class _Relu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask | None) -> Tensor:
        ctx.mark_dirty(x)
        if mask is None:
            x.clamp_min_(0)
        else:
            mask.kept_(x, relu=True)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        return keep_where_above(grad, hidden, 0.0), None


def relu_(x: Tensor, mask: Mask | None = None) -> Tensor:
    """Return mask(max(x, 0)), written over x."""
    return _Relu.apply(x, mask)  # type: ignore[no-any-return, no-untyped-call]


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * (a @ b), the factor inside the matrix product."""
    return torch.addmm(a.new_zeros(()), a, b, beta=0, alpha=scale)


class _AddLinear(Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, x: Tensor, weight: Tensor, scale: float, mask: Mask | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.scale, ctx.mask = scale, mask
        out = x @ weight.t()
        if mask is not None:
            mask.kept_(out)
        return torch.add(residual, out, alpha=scale, out=out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_out = grad if ctx.mask is None else ctx.mask.kept(grad)
        grad_x = _scaled_product(grad_out, weight, ctx.scale)
        frozen = not ctx.needs_input_grad[2]
        grad_weight = None if frozen else _scaled_product(grad_out.t(), x, ctx.scale)
        return grad, grad_x, grad_weight, None, None


def add_linear(
    residual: Tensor, x: Tensor, weight: Tensor, *, scale: float = 1.0, mask: Mask | None = None
) -> Tensor:
    """Return residual + scale * mask(x @ weight.T).

    residual: [tokens, d_out]; x: [tokens, d_in]; weight: [d_out, d_in]. Returns [tokens, d_out].
    """
    return _AddLinear.apply(residual, x, weight, scale, mask)  # type: ignore[no-any-return, no-untyped-call]


def pair_rows(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of q and k so that each head's pairs (i, i + head_dim/2) become neighbours.

    weight: [3 * n_heads * head_dim, d_model], q then k then v. A head's score does not change.
    """
    qk, v = weight.tensor_split([2 * weight.shape[0] // 3])
    halves = qk.view(2 * n_heads, 2, -1, weight.shape[1])
    return torch.cat([halves.transpose(1, 2).reshape(qk.shape), v])


def rotation(cos: Tensor, sin: Tensor, n_heads: int) -> Tensor:
    """Return the factors of q, k (cos + i sin) and v (1): complex [seq, 3, n_heads, head_dim/2]."""
    turns = torch.complex(cos, sin)
    return turning(turns, turns, n_heads)


def turning(queries: Tensor, keys: Tensor, n_heads: int) -> Tensor:
    """The same of complex factors [seq, head_dim/2], one for q and one for k."""
    # Written out per head: a complex product runs half as fast over a broadcast axis.
    return torch.stack([queries, keys, torch.ones_like(keys)], 1)[:, :, None].repeat(1, 1, n_heads, 1)


def _rotate(qkv: Tensor, turns: Tensor) -> Tensor:
    """[batch * seq, 3 * inner] -> rotated, contiguous [3, batch * n_heads, seq, head_dim]."""
    seq, _, n_heads, pairs = turns.shape
    complex_qkv = torch.view_as_complex(qkv.view(-1, *turns.shape, 2))
    out = complex_qkv.new_empty(3, complex_qkv.shape[0], n_heads, seq, pairs)
    torch.mul(complex_qkv, turns, out=out.permute(1, 3, 0, 2, 4))
    return torch.view_as_real(out).view(3, -1, seq, 2 * pairs)


def _rotate_back(grad: Tensor, turns: Tensor) -> Tensor:
    """The adjoint of _rotate."""
    seq, _, n_heads, pairs = turns.shape
    rotated = torch.view_as_complex(grad.view(3, -1, n_heads, seq, pairs, 2))
    out = rotated.new_empty(rotated.shape[1], *turns.shape)
    torch.mul(rotated.permute(1, 3, 0, 2, 4), turns.conj().resolve_conj(), out=out)
    return torch.view_as_real(out).view(-1, 6 * n_heads * pairs)


def _heads_last(x: Tensor, n_heads: int) -> Tensor:
    """[batch * n_heads, seq, head_dim] -> [batch * seq, n_heads * head_dim]."""
    _, seq, head_dim = x.shape
    return x.view(-1, n_heads, seq, head_dim).transpose(1, 2).reshape(-1, n_heads * head_dim)


def _heads_first(x: Tensor, n_heads: int, seq: int) -> Tensor:
    """[batch * seq, n_heads * head_dim] -> [batch * n_heads, seq, head_dim]."""
    split = x.view(-1, seq, n_heads, x.shape[1] // n_heads)
    return split.transpose(1, 2).reshape(-1, seq, x.shape[1] // n_heads)


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turns: Tensor, mask: Mask | None) -> Tensor:
        seq, _, n_heads, _ = turns.shape
        qkv = _rotate(qkv, turns)
        q, k, v = qkv
        future = q.new_full((seq, seq), -torch.inf).triu_(1)
        scores = torch.bmm(q, k.mT).add_(future)
        weights = torch.softmax(scores, -1, out=scores)
        kept = weights if mask is None else mask.kept(weights)
        ctx.save_for_backward(qkv, weights, kept, turns)
        return _heads_last(torch.bmm(kept, v), n_heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, weights, kept, turns = ctx.saved_tensors
        q, k, v = qkv
        grad = _heads_first(grad, turns.shape[2], turns.shape[0])
        grad_qkv = torch.empty_like(qkv)
        grad_q, grad_k, grad_v = grad_qkv
        torch.bmm(kept.mT, grad, out=grad_v)
        grad_scores = torch.bmm(grad, v.mT)
        if kept is not weights:
            keep_where_above(grad_scores, kept, 0.0, out=grad_scores)
        torch.ops.aten._softmax_backward_data.out(
            grad_scores, weights, -1, grad.dtype, grad_input=grad_scores
        )
        torch.bmm(grad_scores, k, out=grad_q)
        torch.bmm(grad_scores.mT, q, out=grad_k)
        return _rotate_back(grad_qkv, turns), None, None


def attention_weights(qkv: Tensor, turns: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What `attend` weighs values with, and the values: [..., n_heads, seq, seq] and [..., seq, head_dim].

    qkv: [..., seq, 3 * n_heads * head_dim]; turns, bias: as `attend` takes them, with axes before them that
    broadcast over qkv's, or none. By autograd, with gradients for the turns and the bias too.
    """
    seq, _, n_heads, pairs = turns.shape[-4:]
    rotated = torch.view_as_complex(qkv.view(*qkv.shape[:-1], 3, n_heads, pairs, 2)) * turns
    q, k, v = torch.view_as_real(rotated).flatten(-2).movedim(-3, 0).transpose(-3, -2)
    scores = q @ k.mT + (0.0 if bias is None else bias) + q.new_full((seq, seq), -torch.inf).triu_(1)
    return torch.softmax(scores, -1), v


def _attend_plainly(qkv: Tensor, turns: Tensor, bias: Tensor | None, mask: Mask | None) -> Tensor:
    weights, v = attention_weights(qkv.view(-1, len(turns), qkv.shape[-1]), turns, bias)
    if mask is not None:
        weights = weights * mask.kept_(torch.ones_like(weights).flatten(0, 1)).view_as(weights)
    return _heads_last((weights @ v).flatten(0, 1), turns.shape[2])


def attend(qkv: Tensor, turns: Tensor, mask: Mask | None = None, bias: Tensor | None = None) -> Tensor:
    """Causal attention without 1/sqrt(head_dim): mask(softmax(q' k'^T + bias)) v, q' and k' rotated.

    qkv: [batch * seq, 3 * n_heads * head_dim] with neighbouring pairs in q and k (`pair_rows`);
    turns: from `rotation`; bias: [n_heads, seq, seq]. Returns [batch * seq, n_heads * head_dim]. Without a
    gradient to keep and without a mask, the scores are never stored.
    """
    seq, _, n_heads, pairs = turns.shape
    if mask is None and not torch.is_grad_enabled():
        q, k, v = _rotate(qkv, turns).view(3, -1, n_heads, seq, 2 * pairs)
        future = None if bias is None else bias + bias.new_full((seq, seq), -torch.inf).triu_(1)
        context = F.scaled_dot_product_attention(q, k, v, future, is_causal=bias is None, scale=1.0)
        return _heads_last(context.flatten(0, 1), n_heads)
    if bias is not None or turns.requires_grad:
        return _attend_plainly(qkv, turns, bias, mask)
    return _Attend.apply(qkv, turns, mask)  # type: ignore[no-any-return, no-untyped-call]
