"""The benchmark's model: a decoder-only Transformer of T5-Small layers (Appendix C.1)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resrope.posgen.dropout import Dropout, Mask, Place
from resrope.posgen.ops import add_linear, attend, attention_weights, norm_linear, pair_rows, relu_
from resrope.posgen.positions import Where

EPS = 1e-6
"""T5's layer_norm_epsilon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of the decoder; the defaults are the paper's (two T5-Small layers, 17 symbols).

    Raises ValueError when a size is not a positive integer, head_dim is odd, or dropout is not in
    [0, 1). n_heads * head_dim need not equal d_model.
    """

    vocab_size: int = 17
    d_model: int = 512
    n_heads: int = 8
    head_dim: int = 64
    d_ff: int = 2048
    n_layers: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "dropout" and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} must be a positive integer, got {value!r}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be >= 0 and < 1, got {self.dropout!r}")


def _normal(*shape: int, std: float, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator).mul_(std)


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each as x + f(norm(x)), with T5's initialisation.

    `qkv` stacks the rows of q, k and v; in q and k a head's pairs are (i, i + head_dim/2).
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        d_model, d_ff, inner = config.d_model, config.d_ff, config.n_heads * config.head_dim
        q_std = (d_model * config.head_dim) ** -0.5
        q = _normal(inner, d_model, std=q_std, generator=generator)
        kv = _normal(2 * inner, d_model, std=d_model**-0.5, generator=generator)
        o = _normal(d_model, inner, std=inner**-0.5, generator=generator)
        wi = _normal(d_ff, d_model, std=d_model**-0.5, generator=generator)
        wo = _normal(d_model, d_ff, std=d_ff**-0.5, generator=generator)
        self.attention_norm = nn.Parameter(torch.ones(d_model))
        self.qkv = nn.Parameter(torch.cat([q, kv]))
        self.o = nn.Parameter(o)
        self.feed_forward_norm = nn.Parameter(torch.ones(d_model))
        self.wi = nn.Parameter(wi)
        self.wo = nn.Parameter(wo)


class Decoder(nn.Module):
    """Token ids to logits, with a tied embedding whose output side is scaled by d_model**-0.5.

    The weights depend on `config` and `seed` alone, not on torch's global generator. The state
    dict holds plain contiguous tensors, the embedding once.
    """

    def __init__(self, config: ModelConfig, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        table = _normal(config.vocab_size, config.d_model, std=1.0, generator=generator)
        self.embedding = nn.Parameter(table)
        self.layers = nn.ModuleList(DecoderLayer(config, generator) for _ in range(config.n_layers))
        self.final_norm = nn.Parameter(torch.ones(config.d_model))

    def forward(self, tokens: Tensor, where: Where, *, dropout_seed: int | None = None) -> Tensor:
        """Return the logits of each position's next token, [batch, seq, vocab_size].

        tokens: int64 [batch, seq]; where: what the position embedding gives for so many tokens.
        dropout_seed: None runs without dropout; equal seeds draw equal masks. Under
        `torch.no_grad()` memory grows with batch * seq * (d_ff + 4 * d_model) only.
        Raises ValueError when the positions do not fit the tokens.
        """
        self._check(tokens, where)
        config, shape = self.config, tokens.shape
        dropping = dropout_seed is not None and config.dropout > 0
        dropout = Dropout(config.dropout, dropout_seed or 0) if dropping else None
        x = self._embedded(tokens, where)
        if dropout is not None:
            x = _dropped(x, dropout)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            x = self._layer(layer, index, x, where, dropout)
        mask = None if dropout is None else dropout.mask(Place.FINAL, 0, tuple(x.shape))
        scale = config.d_model**-0.5 * (1.0 if dropout is None else dropout.scale)
        logits = norm_linear(x, self.final_norm * scale, self.embedding, eps=EPS, mask=mask)
        return logits.view(*shape, config.vocab_size)

    @torch.no_grad()
    def attention(self, tokens: Tensor, where: Where) -> Tensor:
        """What every head weighs values with, without dropout: [n_layers, batch, n_heads, seq, seq].

        tokens, where: as in ``forward``.
        """
        self._check(tokens, where)
        x, made = self._embedded(tokens, where), []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            qkv = self._qkv(layer, x).view(*tokens.shape, -1)
            made.append(attention_weights(qkv, where.turns, where.bias)[0])
            x = self._layer(layer, index, x, where, None)
        return torch.stack(made)

    def _embedded(self, tokens: Tensor, where: Where) -> Tensor:
        """[batch * seq, d_model]."""
        x = F.embedding(tokens.flatten(), self.embedding)
        return x if where.input is None else (x.view(*tokens.shape, -1) + where.input).flatten(0, 1)

    def _qkv(self, layer: DecoderLayer, x: Tensor) -> Tensor:
        return norm_linear(x, layer.attention_norm, pair_rows(layer.qkv, self.config.n_heads), eps=EPS)

    def _layer(
        self,
        layer: DecoderLayer,
        index: int,
        x: Tensor,
        where: Where,
        dropout: Dropout | None,
    ) -> Tensor:
        """One layer over x: [batch * seq, d_model]."""
        config, seq, tokens = self.config, len(where), x.shape[0]

        def mask(place: Place, *shape: int) -> Mask | None:
            return None if dropout is None else dropout.mask(place, index, shape)

        # Two masks lie on each branch; both scales are applied where it is added to x.
        scale = 1.0 if dropout is None else dropout.scale**2
        heads = tokens // seq * config.n_heads
        context = attend(
            self._qkv(layer, x), where.turns, mask(Place.ATTENTION_WEIGHTS, heads, seq, seq), where.bias
        )
        attended = mask(Place.ATTENTION_OUTPUT, tokens, config.d_model)
        x = add_linear(x, context, layer.o, scale=scale, mask=attended)
        hidden = norm_linear(x, layer.feed_forward_norm, layer.wi, eps=EPS)
        hidden = relu_(hidden, mask(Place.HIDDEN, tokens, config.d_ff))
        fed = mask(Place.FEED_FORWARD_OUTPUT, tokens, config.d_model)
        return add_linear(x, hidden, layer.wo, scale=scale, mask=fed)

    def _check(self, tokens: Tensor, where: Where) -> None:
        if tokens.ndim != 2 or tokens.dtype != torch.int64:
            raise ValueError(f"tokens must be int64 [batch, seq], got {tokens.dtype} {list(tokens.shape)}")
        expected = [tokens.shape[1], 3, self.config.n_heads, self.config.head_dim // 2]
        if list(where.turns.shape) != expected:
            raise ValueError(
                f"turns must be [seq, 3, n_heads, head_dim/2] = {expected}, got {list(where.turns.shape)}"
            )


def _dropped(x: Tensor, dropout: Dropout) -> Tensor:
    # The mask times the scale is a constant of the product, so autograd needs nothing else.
    mask = dropout.mask(Place.EMBEDDING, 0, tuple(x.shape))
    return x * mask.kept_(torch.full_like(x, dropout.scale))
