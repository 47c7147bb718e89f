"""Logits of a checkpoint in the engines that are installed here, against the wanted tables' exact phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resrope.models.config import ModelRope
from resrope.spec import RopeSpec, frequencies

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 64
# Nats. SmolLM2 135M in float32: 1e-10 with the same table; with another 5e-4 (llama3 in place of plain RoPE),
# 2e-2 (YaRN with and without Resonance) and more.
LARGEST_KL = 1e-4
# llama.cpp rounds the activations to the weights' type. Its rounding alone gives SmolLM2 135M 3e-5 in F16,
# 2e-3 in BF16, 6e-3 to 1e-2 in Q4_1 (llama-cpp-python 0.3.36, CPU): as much as another table may.
_GGUF_KL = {"F64": LARGEST_KL, "F32": LARGEST_KL, "F16": 1e-3}
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitDifference:
    """One engine's logits against those of the same weights with the wanted tables, in float32.

    engine: its name in ``ENGINES``. largest: the largest absolute difference of a logit. kl: the mean
    Kullback-Leibler divergence of the next-token distribution from the reference's, in nats. limit: the
    kl above which the engine computes something else; None where its own rounding leaves no such bound
    (llama.cpp with bfloat16 or quantised weights).
    """

    engine: str
    largest: float
    kl: float
    limit: float | None

    @property
    def wrong(self) -> bool:
        """Whether the engine computes something else; a kl that is no number counts as that too."""
        return self.limit is not None and not self.kl <= self.limit


def why_not_run(path: Path) -> str | None:
    """Why nothing can be run for ``path``, in words; None when something can be tried."""
    if path.suffix == ".gguf" and path.is_file():
        return None if find_spec("llama_cpp") else "llama-cpp-python is not installed here"
    if path.is_dir() and any(path.glob("*.safetensors")):
        return None
    pickles = path.is_dir() and any(path.glob("*.bin"))
    return "no safetensors here, and pickles are never loaded" if pickles else "no weights here"


def logit_differences(path: Path, specs: Mapping[str, RopeSpec]) -> tuple[LogitDifference, ...]:
    """Run a folder in transformers, and in MLX where installed; a .gguf file in llama.cpp where installed.

    specs: the wanted tables by layer type. The reference is transformers with the checkpoint's weights in
    float32, where every rotary module has these tables, installed by hand and with exact phases: nothing
    of its rotation comes from the checkpoint's config. 64 random tokens, always the same.

    That shows an engine which rotates with other frequencies or another attention factor than wanted,
    and in llama.cpp and MLX any other disagreement about the model. It cannot show what transformers
    and the reference both take from the config for attention itself (a softmax scale from mscale_all_dim,
    queries that grow with the position), nor what happens beyond 64 tokens.

    Raises ValueError, in one line that names the checkpoint, for whatever the engines raise.
    """
    if path.suffix == ".gguf":
        return _run_gguf(path, specs) if find_spec("llama_cpp") else ()
    with _reported(path, "transformers"):
        model, ids = _model(path)
        stock = _forward(model, ids)
    reference = _reference(path, model, ids, specs)
    found = [_difference(_installed_transformers(), stock, reference, LARGEST_KL)]
    if find_spec("mlx_lm"):
        with _reported(path, "MLX-LM"):
            found.append(_difference("mlx", _mlx(path, ids), reference, LARGEST_KL))
    return tuple(found)


def _run_gguf(path: Path, specs: Mapping[str, RopeSpec]) -> tuple[LogitDifference, ...]:
    """llama.cpp alone: resrope itself sets the tables where transformers loads a GGUF file."""
    with _reported(path, "transformers"):
        model, ids = _model(path)
    reference = _reference(path, model, ids, specs)
    with _reported(path, "llama.cpp"):
        return (_difference("llama.cpp", _llama_cpp(path, ids), reference, _gguf_limit(path)),)


@contextmanager
def _reported(path: Path, who: str, cannot: str = "run it") -> Iterator[None]:
    """Whatever ``who`` raises, in one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise  # says who and what already
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        words = " ".join(f"{kind}{error}".split())
        short = words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]} …"
        raise ValueError(f"{path}: {who} cannot {cannot}: {short}") from None


def _installed_transformers() -> str:
    from transformers import __version__

    return f"transformers-{__version__.split('.')[0]}"


def _model(path: Path) -> tuple[Any, Tensor]:
    """The model as the stock loader has it, in float32, and [TOKENS] tokens for it."""
    import torch

    from resrope.models.load import load

    with _without_bars():
        model = load(path, exact=False, dtype=torch.float32)
    tokens = _embedding_rows(model)
    return model, torch.randint(0, tokens, (TOKENS,), generator=torch.Generator().manual_seed(0))


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers without progress bars and warnings, e.g. of keys that another engine reads.

    The bar over GGUF tensors asks nobody whether it may show.
    """
    of_gguf: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    logging: Any = import_module("transformers.utils.logging")
    shown, own_bar = logging.is_progress_bar_enabled(), of_gguf.tqdm
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    of_gguf.tqdm = logging.tqdm
    try:
        yield
    finally:
        of_gguf.tqdm = own_bar
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _embedding_rows(model: Any) -> int:
    """Rows of the embedding matrix: every smaller token can be given to the model."""
    return int(model.get_input_embeddings().weight.shape[0])


def _reference(path: Path, model: Any, ids: Tensor, specs: Mapping[str, RopeSpec]) -> Tensor:
    """Logits with the wanted tables in every rotary module; the model keeps them."""
    from resrope.models.hook import install
    from resrope.models.live import rotary_modules

    tables = {layer: frequencies(spec) for layer, spec in specs.items()}
    wanted = ModelRope(model_type="", specs=dict(specs))
    with _reported(path, "resrope", "make the reference for its logits"):
        for one in rotary_modules(model, wanted):
            install(one.module, {key: tables[layer] for key, layer in one.keys.items()}, exact=True)
        return _forward(model, ids)


def _forward(model: Any, ids: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return model(ids[None]).logits[0].float()  # type: ignore[no-any-return]


def _difference(engine: str, logits: Tensor, reference: Tensor, limit: float | None) -> LogitDifference:
    # Tokens that both rule out with -inf do not differ.
    largest = (logits - reference).masked_fill(logits == reference, 0.0).abs().max()
    p, q = (t.double().log_softmax(-1) for t in (reference, logits))
    kl = float((p.exp() * (p - q)).masked_fill(p == -float("inf"), 0.0).sum(-1).mean())
    # Rounding can take it below 0; NaN must stay.
    return LogitDifference(engine=engine, largest=float(largest), kl=0.0 if kl < 0 else kl, limit=limit)


def _gguf_limit(path: Path) -> float | None:
    """The bound for llama.cpp with these weights; None where its own rounding leaves none."""
    from resrope.models.gguf import open_gguf

    limits = [_GGUF_KL.get(tensor.tensor_type.name) for tensor in open_gguf(path).tensors]
    known = [limit for limit in limits if limit is not None]
    return max(known, default=None) if len(known) == len(limits) else None


def _llama_cpp(path: Path, ids: Tensor) -> Tensor:
    import numpy as np
    import torch
    from llama_cpp import GGML_TYPE_F32, Llama

    engine = Llama(
        str(path),
        n_ctx=2 * TOKENS,
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
    # In bfloat16 the rounding of activations would hide small differences of the table.
    model.set_dtype(mx.float32)
    return torch.from_numpy(np.array(model(mx.array(ids[None].numpy())).astype(mx.float32)))[0]
