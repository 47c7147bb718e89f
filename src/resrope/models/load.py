"""Load a causal language model with a method applied, and save one so that any stock loader reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from resrope.files import atomic_write, beside, readable
from resrope.models import gguf
from resrope.models.apply import apply, installed_reading, put, rope_of
from resrope.models.config import innermost, rope_from_config
from resrope.models.engines.compare import objection
from resrope.models.extension import Extension, unchanged
from resrope.models.live import differs_from, rotary_modules, text_config
from resrope.models.source import SMOLLM2, check_there
from resrope.models.spelling import write_both
from resrope.spec import frequencies


def load(
    path: str | Path,
    method: str | None = None,
    *,
    exact: bool = True,
    length: int | None = None,
    layers: tuple[str, ...] | None = None,
    replace_scaling: bool = False,
    dtype: Any = "auto",
    trust_remote_code: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> nn.Module:
    """A transformers model that rotates with ``method``; without one, with the tables that ``path`` has.

    >>> model = resrope.load("smollm2", method="resonance-yarn", factor=4)

    path: a folder, a hub id, a .gguf file (dequantised) or ``smollm2``. Weights come from safetensors or
    GGUF only, never from a pickle. dtype and ``model_kwargs`` go to ``from_pretrained``, the rest means
    what it means for ``apply``. Raises ValueError or OSError for what cannot be loaded or applied.
    """
    _check_has_method(
        method, {**parameters, "length": length, "layers": layers, "replace_scaling": replace_scaling}
    )
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code, **(model_kwargs or {})}
    check_there(path)
    file = gguf.smollm2_path() if str(path) == SMOLLM2 else Path(path)
    model = _from_gguf(file, options) if file.suffix == ".gguf" else _from_pretrained(path, options)
    if method is not None:
        apply(
            model,
            method,
            exact=exact,
            length=length,
            layers=layers,
            replace_scaling=replace_scaling,
            **parameters,
        )
    elif exact:
        put(model, unchanged(rope_of(model)), exact=True)
    return model  # type: ignore[no-any-return]


def _from_pretrained(path: str | Path, options: dict[str, Any]) -> Any:
    """transformers' own loader; whatever it raises becomes one line."""
    try:
        # A GGUF file is no pickle either, and refuses the word.
        safe = {} if "gguf_file" in options else {"use_safetensors": True}
        return _causal_lm().from_pretrained(str(path), **safe, **options)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        first = " ".join(str(error).split()) or repr(error)
        raise ValueError(
            f"{path}: transformers cannot load it: {type(error).__name__}: {first:.300}"
        ) from error


def _check_has_method(method: str | None, given: Mapping[str, Any]) -> None:
    names = [name for name, value in given.items() if value is not None and value is not False]
    if method is None and names:
        raise ValueError(f"{', '.join(names)} must come with a method, got none")


def save(model: nn.Module, folder: str | Path) -> Path:
    """Save a model for the installed transformers: weights as safetensors, the config in both spellings.

    Written beside ``folder`` and renamed at the end. The live modules, the config and what the installed
    transformers makes of the saved one are compared first; other engines want their own words, for which
    there is ``resrope extend``. Raises ValueError when ``folder`` exists, when config and modules say
    different tables, or when this transformers could not get these tables from any config.
    """
    text_config(model)
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; give the name of a new folder")
    temporary = beside(folder)
    try:
        model.save_pretrained(str(temporary))  # type: ignore[operator]
        settle(temporary, model)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def settle(folder: Path, model: nn.Module) -> None:
    """Finish what ``save_pretrained`` wrote into ``folder``: the config in both spellings, held against the
    live modules.

    Raises ValueError like ``save``.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _respell(config)
    _check_saved(config, model)
    atomic_write(folder / "config.json", json.dumps(config, indent=2) + "\n")
    readable(folder)


def _check_saved(config: dict[str, Any], model: nn.Module) -> None:
    """Raise ValueError unless the installed transformers would rotate with the live tables again."""
    live = rope_of(model)
    tables = {layer: frequencies(spec) for layer, spec in live.specs.items()}
    for one in rotary_modules(model, live):
        if any(differs_from(one, key, tables[layer]) for key, layer in one.keys.items()):
            raise ValueError(f"{one.name} rotates with other frequencies than the model's config describes")
    if rope_from_config(config).specs != live.specs:
        raise ValueError("the saved config would describe other rotary frequencies than the model's own")
    why = objection(installed_reading(config), tables, live.max_position_embeddings or 0)
    if why is not None:
        raise ValueError(f"a saved {live.model_type} model would not be the same when it is loaded: {why}")


def _respell(config: dict[str, Any]) -> None:
    text = innermost(config)
    parameters = text.get("rope_parameters")
    if parameters:
        nested = any(isinstance(p, Mapping) for p in parameters.values())
        write_both(text, parameters if nested else {"default": parameters})


def _causal_lm() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


@contextmanager
def _bars_as_asked() -> Iterator[None]:
    """No bar of transformers' GGUF reader where its bars are turned off, to which it pays no heed."""
    from transformers.utils import logging

    reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=None if logging.is_progress_bar_enabled() else True)
    try:
        yield
    finally:
        reader.tqdm = bar


def _from_gguf(file: Path, options: dict[str, Any]) -> Any:
    """Dequantised, in a model of its own: the one that transformers returns refuses to be saved."""
    import torch

    options = {**options, "dtype": torch.float32 if options["dtype"] == "auto" else options["dtype"]}
    rope = gguf.read_gguf(file)
    with _bars_as_asked():
        read = _from_pretrained(file.parent, {**options, "gguf_file": file.name})
    config = type(read.config).from_dict(
        {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    # The dictionary does not have the attention that was asked for.
    attention = {"attn_implementation": read.config._attn_implementation}
    model = _causal_lm().from_config(config, dtype=read.dtype, **attention)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.eval()
    # transformers reads neither the factors of single features nor attn_factor from a GGUF file.
    own = rope_of(model)
    if {k: frequencies(s) for k, s in own.specs.items()} != {
        k: frequencies(s) for k, s in rope.specs.items()
    }:
        known = unchanged(rope)
        put(
            model,
            Extension(method=known.method, before=own, after=rope, layers=known.layers, length=known.length),
            exact=False,
        )
    return model
