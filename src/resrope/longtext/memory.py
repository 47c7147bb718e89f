"""What a long context takes beside the model's weights, known before anything is read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resrope.longtext import attention
from resrope.longtext.forward import ROWS

# What allocators hold beside what is in use.
_HOLES = 1.1
# Lengths that are suggested are multiples of this.
_STEP = 512
# Files of a control group: its limit, its use, and the field of memory.stat with the pages it could drop.
_CGROUP_2 = ("memory.max", "memory.current", "inactive_file")
_CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def needed(model: Any, length: int, *, chunk: int, kept_rows: int | None = None) -> int:
    """Bytes that reading ``length`` tokens, ``chunk`` at a time, takes on top of the loaded weights.

    kept_rows: positions of a chunk whose logits are wanted, left out: all of them. Two tokens are read to
    see what the model keeps of each.
    """
    return _appetite(model).bytes(length, chunk, kept_rows)


def available(device: torch.device) -> int:
    """Bytes that are free: of the CUDA device, else of main memory within the limits of control groups."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _main_memory()


def check_fits(model: Any, length: int, *, chunk: int, kept_rows: int | None = None) -> None:
    """Raise ValueError, with the length that would fit, when ``length`` tokens do not fit into memory."""
    wanted = needed(model, length, chunk=chunk, kept_rows=kept_rows)
    free = available(model.device)
    if wanted <= free:
        return
    appetite = _appetite(model)
    steps = range(_STEP, length, _STEP)
    best = _STEP * bisect_right(steps, free, key=lambda tokens: appetite.bytes(tokens, chunk, kept_rows))
    raise ValueError(
        f"{length} tokens need about {gib(wanted)} beside the model's weights, {gib(free)} are free: "
        f"{best or f'fewer than {_STEP}'} tokens would fit (or a smaller --chunk"
        f"{', --dtype bfloat16' if appetite.itemsize > 2 else ''})"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """What a layer keeps of a token: bytes of its keys, bytes of its values.

    heads, head_dim: of the keys that attention sees. window: tokens that it sees, None for all. expanded:
    bytes of a token's keys and values made from a latent (MLA), 0 elsewhere. padded: bytes of its values once
    they are as wide as its keys, which one kernel wants; 0 where they are.
    """

    keys: int
    values: int
    heads: int
    head_dim: int
    window: int | None
    expanded: int
    padded: int

    def tokens(self, length: int, chunk: int) -> int:
        """How many tokens it holds at a time; a window is cut after the chunk has been appended."""
        return length if self.window is None else min(length, self.window - 1 + chunk)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Appetite:
    """The numbers of a model that decide what it takes. width: of a token's states, the queries' if wider."""

    layers: tuple[_Layer, ...]
    width: int
    intermediate: int
    vocabulary: int
    heads: int
    itemsize: int
    attn: str

    def bytes(self, length: int, chunk: int, rows: int | None = None) -> int:
        """The peak over all steps of the last and largest chunk."""
        chunk = min(chunk, length)
        rows = chunk if rows is None else min(rows, chunk)
        held = [(layer, layer.tokens(length, chunk)) for layer in self.layers]
        cache = sum(n * (layer.keys + layer.values) for layer, n in held)
        attending = max(self._attending(layer, n, chunk) for layer, n in held)
        # Residual, normalised, queries, keys, values before and after rotation, output.
        states = 8 * chunk * self.width * self.itemsize
        feeding = 3 * chunk * self.intermediate * self.itemsize  # gate, up and their product
        logits = rows * self.vocabulary * self.itemsize
        losses = 2 * min(rows, ROWS) * self.vocabulary * torch.float32.itemsize
        return round(_HOLES * (cache + max(states + max(attending, feeding), logits + losses)))

    def _attending(self, layer: _Layer, tokens: int, chunk: int) -> int:
        """Bytes of one layer's attention: what the implementation makes beside its inputs and output."""
        masked = self.attn in ("eager", "sdpa") or (self.attn == attention.NAME and layer.window is not None)
        if not masked:
            return tokens * (layer.expanded + layer.padded)
        group = self.heads // layer.heads
        repeated = tokens * (layer.keys + layer.values) * group if group > 1 else 0
        mask = chunk * tokens * (torch.bool.itemsize + self.itemsize)  # as made, as added to the scores
        # The softmax is in float32 and beside its input.
        scores = 2 * self.heads * chunk * tokens * torch.float32.itemsize if self.attn == "eager" else 0
        return tokens * layer.expanded + repeated + mask + scores


@torch.inference_mode()
def _appetite(model: Any) -> _Appetite:
    """Measured where architectures differ (what is kept), read from the config where they do not."""
    probe = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    kept = model(input_ids=probe, use_cache=True, logits_to_keep=1).past_key_values.layers
    text = model.config.get_text_config()
    layers = tuple(_layer(one, text) for one in kept if getattr(one, "keys", None) is not None)
    return _Appetite(
        layers=layers,
        width=max(text.hidden_size, text.num_attention_heads * max(one.head_dim for one in layers)),
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        heads=text.num_attention_heads,
        itemsize=model.dtype.itemsize,
        attn=text._attn_implementation,
    )


def _layer(kept: Any, text: Any) -> _Layer:
    """A layer of a transformers cache that has read something; keys, values: [1, heads, tokens, head_dim]."""
    (_, heads, _, head_dim), (_, _, _, value_dim) = kept.keys.shape, kept.values.shape
    size, expanded = kept.keys.element_size(), 0
    keys, values = heads * head_dim * size, kept.values.shape[1] * value_dim * size
    if getattr(text, "kv_lora_rank", None) and heads < text.num_attention_heads:
        heads, value_dim = text.num_attention_heads, text.v_head_dim
        head_dim = text.qk_nope_head_dim + text.qk_rope_head_dim
        # The projection, and the keys put together from its half and the rotated part.
        expanded = heads * size * (text.qk_nope_head_dim + value_dim + head_dim)
    return _Layer(
        keys=keys,
        values=values,
        heads=heads,
        head_dim=head_dim,
        window=kept.sliding_window if kept.is_sliding else None,
        expanded=expanded,
        padded=heads * head_dim * size if value_dim < head_dim else 0,
    )


def _main_memory(root: Path = Path("/")) -> int:
    """What Linux calls available, less where a control group of this process leaves less; else psutil's."""
    info = root / "proc/meminfo"
    if not info.is_file():
        import psutil  # type: ignore[import-untyped]

        return int(psutil.virtual_memory().available)
    fields = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *_left_by_cgroups(root)])


def _left_by_cgroups(root: Path) -> Iterator[int]:
    """Of the control groups of this process and those around them, of version 2 and of version 1."""
    membership = root / "proc/self/cgroup"
    for line in membership.read_text(encoding="utf-8").splitlines() if membership.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        files = _CGROUP_1 if controllers else _CGROUP_2
        group = mount / path.lstrip("/")
        # In a container the path can be the host's; what is mounted is then the container's own group.
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount) and (folder / files[0]).is_file():
                yield from _left(folder, *files)


def _left(group: Path, limit: str, usage: str, idle: str) -> Iterator[int]:
    most = (group / limit).read_text(encoding="ascii").strip()
    if most == "max":
        return
    stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    used = int((group / usage).read_text(encoding="ascii")) - int(stat[idle])
    yield max(0, int(most) - used)


def gib(size: int) -> str:
    """In words: 2.5 GiB."""
    return f"{size / 2**30:.3g} GiB"
