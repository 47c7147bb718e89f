"""Logits of a checkpoint in the engines that are installed here, against exact phases."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resrope.models.apply import put, rope_of
from resrope.models.extension import unchanged
from resrope.models.load import load

if TYPE_CHECKING:
    from torch import Tensor

_TOKENS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitDifference:
    """One engine's logits against those of the same weights with exact phases, in float32.

    largest: the largest absolute difference of a logit. kl: the mean Kullback-Leibler divergence of the
    next-token distribution from the reference's, in nats.
    """

    engine: str
    largest: float
    kl: float


def logit_differences(path: Path) -> tuple[LogitDifference, ...]:
    """Run the checkpoint in transformers, and in llama.cpp or MLX where they are installed and read it.

    64 random tokens, always the same. Loads the whole model in float32. Raises what the engines raise.
    """
    import torch

    is_gguf = path.suffix == ".gguf"
    model = load(path, exact=False, dtype=torch.float32)
    ids = torch.randint(0, rope_vocabulary(model), (_TOKENS,), generator=torch.Generator().manual_seed(0))
    found: dict[str, Tensor] = {}
    if not is_gguf:
        found["transformers"] = _forward(model, ids)
    put(model, unchanged(rope_of(model)), exact=True)
    reference = _forward(model, ids)
    engines = {"llama.cpp": ("llama_cpp", _llama_cpp)} if is_gguf else {"mlx": ("mlx_lm", _mlx)}
    for name, (package, run) in engines.items():
        if find_spec(package) is not None:
            found[name] = run(path, ids)
    return tuple(_difference(name, logits, reference) for name, logits in found.items())


def rope_vocabulary(model: Any) -> int:
    """Tokens that the model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def _forward(model: Any, ids: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return model(ids[None]).logits[0].float()  # type: ignore[no-any-return]


def _difference(name: str, logits: Tensor, reference: Tensor) -> LogitDifference:
    p, q = (t.double().log_softmax(-1) for t in (reference, logits))
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return LogitDifference(
        engine=name, largest=float((logits - reference).abs().max()), kl=max(0.0, float(kl))
    )


def _llama_cpp(path: Path, ids: Tensor) -> Tensor:
    import numpy as np
    import torch
    from llama_cpp import GGML_TYPE_F32, Llama

    engine = Llama(
        str(path),
        n_ctx=2 * _TOKENS,
        logits_all=True,
        verbose=False,
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
    )
    engine.eval(ids.tolist())
    return torch.from_numpy(np.array(engine.scores[: len(ids)]))


def _mlx(path: Path, ids: Tensor) -> Tensor:
    import mlx.core as mx
    import numpy as np
    import torch
    from mlx_lm.utils import load_model

    model, _ = load_model(path)
    return torch.from_numpy(np.array(model(mx.array(ids[None].numpy())).astype(mx.float32)))[0]
