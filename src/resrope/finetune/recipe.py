"""What a fine-tuning does, as one frozen value: every number that decides the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from resrope.spec import check

TUNINGS = ("full", "lora", "qlora")
PRECISIONS = ("float32", "bf16")
SCHEDULES = ("linear", "constant", "cosine")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A fine-tuning. The defaults are the paper's where it has one (Appendix C.2).

    method, parameters: of the registry, on top of the model's own rotary embedding; None: its own tables
    stay. replace_scaling: in the place of a scaling that the model has. length: tokens of a sequence.
    steps: updates of the weights. batch: sequences that one process holds at a time. accumulation: of how
    many such batches a process makes one update. learning_rate, weight_decay, max_grad_norm: of AdamW and
    before it; biases and norms do not decay. warmup: share of the steps in which the rate rises from 0.
    schedule: what follows: linear or cosine to 0, or constant. tuning: full, or LoRA of rank ``lora_rank``
    and scale ``lora_alpha`` on every linear layer but the head, on 4-bit weights for qlora. precision: of
    the arithmetic; with bf16, trained weights stay float32. chunk: positions whose logits are there at a
    time. checkpointing: layers are computed again in the backward. attention: an implementation of
    transformers, None for its choice. seed: of the order of the chunks, of dropout and of LoRA.
    """

    length: int
    steps: int
    method: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    replace_scaling: bool = False
    batch: int = 1
    accumulation: int = 1
    learning_rate: float = 2e-5
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    warmup: float = 0.05
    schedule: str = "linear"
    tuning: str = "full"
    lora_rank: int = 16
    lora_alpha: int = 32
    precision: str = "float32"
    chunk: int = 512
    checkpointing: bool = True
    attention: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check.integer("length", self.length, 2, "tokens of a sequence")
        for name in ("steps", "batch", "accumulation", "chunk", "lora_rank", "lora_alpha"):
            check.integer(name, getattr(self, name), 1, _MEANINGS[name])
        check.integer("seed", self.seed, 0, "of the order of the chunks", 2**32 - 1)
        if self.length < self.chunk:
            raise ValueError(
                f"length must be >= chunk ({self.chunk} positions of the loss), got {self.length}"
            )
        check.number("learning_rate", self.learning_rate, 0, "of AdamW", strict=True)
        check.number("weight_decay", self.weight_decay, 0, "of AdamW")
        check.number("max_grad_norm", self.max_grad_norm, 0, "longer gradients are cut to it", strict=True)
        check.number("warmup", self.warmup, 0, "share of the steps")
        if self.warmup > 1:
            raise ValueError(f"warmup must be <= 1 (share of the steps), got {self.warmup!r}")
        check.one_of("tuning", self.tuning, TUNINGS)
        check.one_of("precision", self.precision, PRECISIONS)
        check.one_of("schedule", self.schedule, SCHEDULES)

    def sequences(self, processes: int) -> int:
        """Sequences of one update."""
        return self.batch * self.accumulation * processes

    def tokens(self, processes: int) -> int:
        """Tokens of the whole run."""
        return self.steps * self.sequences(processes) * self.length

    def with_tokens(self, tokens: int, processes: int) -> Recipe:
        """The accumulation with which the run comes nearest to ``tokens``, at least 1."""
        once = self.steps * self.batch * processes * self.length
        return replace(self, accumulation=max(1, round(tokens / once)))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


_MEANINGS = {
    "steps": "updates of the weights",
    "batch": "sequences of a process",
    "accumulation": "batches of an update",
    "chunk": "positions whose logits are there at a time",
    "lora_rank": "rank of LoRA",
    "lora_alpha": "scale of LoRA",
}


def order(chunks: int, needed: int, seed: int) -> list[int]:
    """The chunk of each of ``needed`` sequences: every chunk once before any comes again, each time shuffled.

    The same for any number of processes and after any interruption.
    """
    import numpy as np

    rounds = -(-needed // chunks)
    shuffled = [np.random.default_rng([seed, i]).permutation(chunks) for i in range(rounds)]
    return [int(i) for i in np.concatenate(shuffled)[:needed]] if shuffled else []
