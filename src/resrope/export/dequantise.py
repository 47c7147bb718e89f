"""A GGUF file as a Hugging Face folder, through transformers' own loader."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resrope.files import beside, readable
from resrope.models.config import rope_from_config
from resrope.models.source import read_config
from resrope.spec import frequencies


@contextmanager
def as_folder(source: Path, out: Path) -> Iterator[Path]:
    """``source`` as a Hugging Face folder: itself, or a GGUF file's weights in float32 until the end."""
    if source.is_dir():
        yield source
        return
    folder = beside(out.absolute())
    try:
        from_gguf(source, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def from_gguf(source: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file to ``folder``, weights dequantised to float32.

    Raises ValueError when transformers is missing, when it cannot load the file, and when it would drop
    factors that llama.cpp reads from the file (rope_freqs, attn_factor).
    """
    import torch

    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError:
        raise ValueError(
            "reading the weights of a GGUF file needs transformers: pip install transformers"
        ) from None
    try:
        given = {"gguf_file": source.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype="float32", **given)
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **given)
    except (ValueError, OSError, KeyError, NotImplementedError, ImportError) as error:
        raise ValueError(f"{source}: transformers cannot load it: {error}".splitlines()[0]) from None
    config = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    _check_same(source, config)
    # A model that was loaded from GGUF calls itself quantised and refuses to be saved.
    with torch.device("meta"):
        fresh = type(model.config).from_dict(config)
        plain = AutoModelForCausalLM.from_config(fresh, dtype=model.dtype)  # type: ignore[no-untyped-call]
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    readable(folder)


def _check_same(source: Path, config: Mapping[str, Any]) -> None:
    ours, theirs = read_config(source).specs, rope_from_config(config).specs
    for layer, spec in ours.items():
        a, b = frequencies(spec), frequencies(theirs.get(layer, next(iter(theirs.values()))))
        pairs = [*zip(a.inv_freq, b.inv_freq, strict=False), (a.attention_factor, b.attention_factor)]
        if not all(math.isclose(x, y, rel_tol=1e-6) for x, y in pairs):
            raise ValueError(
                f"{source}: transformers would drop the file's own factors ({layer}); use --engine gguf"
            )
