"""A Hugging Face folder as a GGUF file with a table of rotary frequencies, for llama.cpp.

For the architectures whose tensors llama.cpp loads as they are, but for the order of q and k rows; all
others go through llama.cpp's own converter and ``write_gguf``. Checked with llama-cpp-python 0.3.36 on one
random model of each model_type: logits within 1.8·10⁻⁴ of transformers', KL divergence 8·10⁻¹¹.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from resrope.export import gguf_file as file
from resrope.export import gguf_rows as rows
from resrope.export.gguf import check_size, factor_tensors, rope_fields
from resrope.export.gguf_tokens import no_vocabulary, tokenizer_fields
from resrope.export.gguf_weights import KINDS, stream
from resrope.export.weights import Place, checkpoint
from resrope.models.config import rope_from_config
from resrope.spec import Frequencies, check

Dtype = Literal["f32", "f16", "bf16", "source"]
_KINDS = {"f32": rows.F32, "f16": rows.F16, "bf16": rows.BF16}
# general.file_type for a file that is mostly of a kind (LlamaFileType).
_FILE_TYPES = {rows.F32: 0, rows.F16: 1, rows.BF16: 32}
# model_type to architecture; arch phi3 alone keeps transformers' order of rows.
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "granite": "granite",
    "phi3": "phi3",
}
_GRANITE = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """What a config says, in GGUF's words."""

    arch: str
    config: Mapping[str, Any]
    rope_theta: float
    change: rows.Change

    @property
    def blocks(self) -> int:
        return _integer(self.config, "num_hidden_layers")


def convert(
    folder: Path,
    out: Path,
    *,
    table: Frequencies,
    length: int,
    provenance: Mapping[str, Any],
    dtype: Dtype = "source",
    fold: bool = False,
    no_vocab: bool = False,
) -> None:
    """Write ``folder`` (config.json, tokenizer.json, safetensors) as the GGUF file ``out``.

    table, length, provenance, fold: as in ``write_gguf``. dtype: of the matrices, "source" being the
    folder's own; vectors are float32, as llama.cpp wants them. no_vocab: leave the tokenizer out.
    Weights pass through memory in pieces of about 64 MB or one head's rows.

    Raises ValueError, in one line, for a model_type, a tokenizer or a weight that is not known to come
    out the same, and when ``out`` exists; OSError when the disk is too full. Nothing is left behind then.
    """
    file.check_new(out)
    check.one_of("dtype", dtype, ("f32", "f16", "bf16", "source"))
    config = _read_json(folder / "config.json")
    try:
        model = _model(config, table, length, fold)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    weights = _named(model, checkpoint(folder).tensors(), folder)
    tensors = [_tensor(model, name, weight, dtype) for name, weight in weights.items()]
    vocab_size = _integer(config, "vocab_size")
    fields = {
        **_metadata(model, folder.resolve().name),
        **_file_type(tensors),
        **rope_fields(model.arch, table, length=length, provenance=provenance, fold=fold),
        **(no_vocabulary() if no_vocab else tokenizer_fields(folder, vocab_size)),
    }
    file.write_file(out, fields, [*tensors, *factor_tensors(model.arch, table, model.rope_theta)])


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a folder that save_pretrained wrote")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    return found


def _model(config: Mapping[str, Any], table: Frequencies, length: int, fold: bool) -> _Model:
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model_type must be one of {', '.join(ARCHITECTURES)}, got {model_type!r}; convert others with "
            "llama.cpp's convert_hf_to_gguf.py, then extend that GGUF file"
        )
    _check_computed_alike(config, length)
    rope = rope_from_config(config)
    if set(rope.specs) != {"default"}:
        raise ValueError(f"one table cannot serve {' and '.join(rope.specs)}, which have their own")
    spec = rope.specs["default"]
    check_size(table, spec.rotary_dim)
    arch, heads = ARCHITECTURES[model_type], _integer(config, "num_attention_heads")
    if arch != "phi3" and spec.rotary_dim != spec.head_dim:
        raise ValueError(
            f"architecture {arch} rotates whole heads, got {spec.rotary_dim} of {spec.head_dim} dimensions"
        )
    kv_heads = heads if config.get("num_key_value_heads") is None else _integer(config, "num_key_value_heads")
    change = rows.Change(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=spec.head_dim,
        rotary_dim=spec.rotary_dim,
        permute=arch != "phi3",
        query_scale=table.attention_factor**2 if fold else 1.0,
    )
    return _Model(arch=arch, config=config, rope_theta=spec.rope_theta, change=change)


def _check_computed_alike(config: Mapping[str, Any], length: int) -> None:
    """Refuse what llama.cpp would compute in another way, or not at all."""
    if config.get("quantization_config"):
        raise ValueError("quantised weights cannot be converted; dequantise the model and save it first")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ValueError(f"hidden_act must be silu, which llama.cpp assumes, got {config['hidden_act']!r}")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window is not None and window < length:
        raise ValueError(
            f"sliding_window {window} is shorter than {length} tokens, and llama.cpp would attend to all of "
            "them; set it to null in config.json if that is what you want"
        )


def _integer(config: Mapping[str, Any], name: str) -> int:
    check.integer(name, config.get(name), 1, "needed in config.json")
    return int(config[name])


def _number(config: Mapping[str, Any], name: str) -> float:
    check.number(name, config.get(name), 0, "needed in config.json")
    return float(config[name])


def _metadata(model: _Model, name: str) -> dict[str, bytes]:
    config, change = model.config, model.change
    whole = {
        "block_count": model.blocks,
        "embedding_length": _integer(config, "hidden_size"),
        "feed_forward_length": _integer(config, "intermediate_size"),
        "attention.head_count": change.heads,
        "attention.head_count_kv": change.kv_heads,
        "attention.key_length": change.head_dim,
        "attention.value_length": change.head_dim,
        "rope.dimension_count": change.rotary_dim,
        "vocab_size": _integer(config, "vocab_size"),
    }
    real = {
        "attention.layer_norm_rms_epsilon": _number(config, "rms_norm_eps"),
        "rope.freq_base": model.rope_theta,
    }
    if model.arch == "granite":
        real |= {key: _number(config, given) for given, key in _GRANITE.items() if config.get(given)}
    fields = {
        "general.architecture": file.string("general.architecture", model.arch),
        "general.type": file.string("general.type", "model"),
        "general.name": file.string("general.name", name),
    }
    fields |= {k: file.uint32(k, v) for k, v in _with_prefix(model.arch, whole).items()}
    return fields | {k: file.float32(k, v) for k, v in _with_prefix(model.arch, real).items()}


def _with_prefix(arch: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{arch}.{key}": value for key, value in values.items()}


def _file_type(tensors: Sequence[file.Tensor]) -> dict[str, bytes]:
    """The kind of most of the matrices' bytes."""
    nbytes = dict.fromkeys(_FILE_TYPES, 0)
    for tensor in tensors:
        nbytes[tensor.kind] += tensor.nbytes * (len(tensor.shape) > 1)
    kind = max(nbytes, key=lambda k: nbytes[k])
    return {
        "general.quantization_version": file.uint32("general.quantization_version", 2),
        "general.file_type": file.uint32("general.file_type", _FILE_TYPES[kind]),
    }


def _named(model: _Model, weights: Mapping[str, Place], folder: Path) -> dict[str, Place]:
    """The weights under GGUF's names, in the order of the blocks; all that is needed, and no more."""
    to_gguf, tied = _name_map(model), bool(model.config.get("tie_word_embeddings"))
    found = {}
    for name, weight in weights.items():
        if name.endswith(".inv_freq") or (tied and name == "lm_head.weight"):
            continue
        new = to_gguf(name)
        if new is None:
            raise ValueError(f"{folder}: weight {name} has no place in architecture {model.arch}")
        if weight.dtype not in KINDS:
            raise ValueError(f"{folder}: {name} must be one of {', '.join(KINDS)}, got {weight.dtype}")
        found[new] = weight
    _check_complete(model, found, folder, tied)
    return found


def _name_map(model: _Model) -> Callable[[str], str | None]:
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[model.arch.upper()], model.blocks)
    return partial(names.get_name, try_suffixes=(".weight", ".bias"))


def _check_complete(model: _Model, found: Mapping[str, Place], folder: Path, tied: bool) -> None:
    first = [name.removeprefix("blk.0") for name in found if name.startswith("blk.0.")]
    wanted = ["token_embd.weight", "output_norm.weight", *([] if tied else ["output.weight"])]
    wanted += [f"blk.{i}{name}" for i in range(model.blocks) for name in first or [".attn_norm.weight"]]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{folder}: the weights lack {', '.join(missing[:3])} ({len(missing)} in all)")


def _tensor(model: _Model, name: str, weight: Place, dtype: Dtype) -> file.Tensor:
    kind = KINDS[weight.dtype] if dtype == "source" else _KINDS[dtype]
    kind = kind if len(weight.shape) > 1 else rows.F32
    return file.Tensor(
        name=name,
        shape=tuple(reversed(weight.shape)),
        kind=kind,
        nbytes=math.prod(weight.shape) * (4 if kind == rows.F32 else 2),
        chunks=partial(stream, weight, kind, model.change, name),
    )
