"""Every setting of a PosGen run: frozen, any field replaceable, all on the record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from resrope.posgen.model import ModelConfig
from resrope.posgen.positions import Sizes
from resrope.posgen.splits import SplitKind, check_sizes
from resrope.posgen.tasks import TASKS, Task
from resrope.spec import RopeSpec, check, method

# Methods whose parameters follow from `factor` and the training length alone.
_PLAIN_METHODS = ("rope", "linear", "ntk", "dynamic-ntk", "yarn", "llama3")
DATA = (
    *("j", "k", "modulus", "h", "h_seed", "split"),
    *("train_rows", "validation_rows", "test_rows", "train_length", "test_length"),
)
"""The fields that decide the sequences."""
TABLES = (
    *("factor", "beta_fast", "beta_slow", "ramp", "truncate", "blend", "original_length"),
    *("scale_in_training", "wavelengths"),
)
"""The fields that decide RoPE's tables, and nothing else."""
METHODS = tuple(prefix + name for name in _PLAIN_METHODS for prefix in ("", "resonance-"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One setting of the benchmark; the defaults are the paper's (Section 6.1.1, Appendix C.1).

    Data: h of j + k tokens below `modulus` (`h_seed` of one drawn at random); rows per split; lengths in
    tokens. Prefixes are redrawn for every seed, and shared by all methods at one seed.
    Model: see ModelConfig. Training: AdamW; "one-cycle" is a cosine with `warmup` (share of all steps)
    as in the authors' code, "constant" no schedule. Loss and accuracy count generated tokens only.
    Embedding: `factor` is s; `original_length` is L, train_length where it is None;
    YaRN's ramp as in ``resrope.Yarn`` with the beta_fast = 2 the authors tuned for this benchmark;
    without `scale_in_training` the scaling comes in at test time only; `wavelengths` are those of listed-….
    As in the authors' code (``released``): `split`, see ``make_splits``; without `train_feed_forward` its
    weights stay as they were drawn; `eos_prefix` puts one more token before every sequence; `best_by` says
    which checkpoint is the best, that of the lowest validation loss or of the highest accuracy in
    distribution; training ends after `patience` looks that were not better, if given.
    Looking: `looks` evaluations along training (at most one a step) on the first `look_rows` validation
    sequences (or all there are), the last at its end; the first `free_running_rows` test sequences are also
    generated from their prefix alone.
    """

    j: int = 1
    k: int = 3
    modulus: int = 17
    h: str = "sum"
    h_seed: int = 0
    train_rows: int = 10_000
    validation_rows: int = 1_000
    test_rows: int = 1_000
    train_length: int = 64
    test_length: int = 256
    d_model: int = 512
    n_heads: int = 8
    head_dim: int = 64
    d_ff: int = 2048
    n_layers: int = 2
    dropout: float = 0.1
    epochs: int = 150
    batch_size: int = 128
    learning_rate: float = 2e-4
    weight_decay: float = 1e-2
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    warmup: float = 0.1
    rope_theta: float = 10000.0
    factor: float = 4.0
    beta_fast: float = 2.0
    beta_slow: float = 1.0
    ramp: Literal["index", "turns"] = "index"
    truncate: bool = True
    blend: Literal["frequency", "wavelength"] = "frequency"
    original_length: int | None = None
    scale_in_training: bool = True
    wavelengths: tuple[int, ...] = ()
    split: SplitKind = "disjoint"
    train_feed_forward: bool = True
    eos_prefix: bool = False
    best_by: Literal["loss", "accuracy"] = "loss"
    patience: int | None = None
    looks: int = 150
    look_rows: int = 1_000
    free_running_rows: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.wavelengths, list | tuple):
            raise ValueError(f"wavelengths must be a list of integers, got {self.wavelengths!r}")
        object.__setattr__(self, "wavelengths", tuple(self.wavelengths))  # JSON has lists alone
        self._check_numbers()
        rows = {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}
        for task in TASKS:
            check_sizes(self.task(task), rows, self.split)
        self._check_lengths()
        self.spec("yarn")  # factor and ramp; what a method alone refuses, it refuses when it is chosen
        _ = self.model

    def _check_lengths(self) -> None:
        if self.train_length >= self.test_length:
            raise ValueError(
                "train_length must be shorter than test_length, "
                f"got {self.train_length} and {self.test_length}"
            )
        if self.train_length <= self.j + self.k:
            raise ValueError(f"train_length must be > j + k = {self.j + self.k}, got {self.train_length}")

    def _check_numbers(self) -> None:
        rows = ("train_rows", "validation_rows", "test_rows", "look_rows", "looks", "epochs", "batch_size")
        for name in rows:
            check.integer(name, getattr(self, name), 1, "at least one", 10**9)
        for name in ("train_length", "test_length"):
            check.integer(name, getattr(self, name), 1, "tokens", 2**20)
        for name in ("d_model", "n_heads", "head_dim", "d_ff", "n_layers"):
            check.integer(name, getattr(self, name), 1, "size of the model", 2**16)
        check.integer("free_running_rows", self.free_running_rows, 0, "test sequences to generate freely")
        if self.original_length is not None:
            check.integer("original_length", self.original_length, 1, "L of the scaling")
        for period in self.wavelengths:
            check.integer("every one of wavelengths", period, 1, "tokens")
        if self.patience is not None:
            check.integer("patience", self.patience, 1, "looks that are not better")
        for name in ("scale_in_training", "train_feed_forward", "eos_prefix"):
            check.boolean(name, getattr(self, name))
        check.one_of("split", self.split, get_args(SplitKind))
        check.one_of("best_by", self.best_by, ("loss", "accuracy"))
        check.number("learning_rate", self.learning_rate, 0, "AdamW", strict=True)
        check.number("weight_decay", self.weight_decay, 0, "AdamW")
        check.number("dropout", self.dropout, 0, "share of activations set to 0")
        check.number("warmup", self.warmup, 0, "share of all steps")
        check.one_of("schedule", self.schedule, ("one-cycle", "constant"))
        if self.warmup >= 1:
            raise ValueError(f"warmup must be < 1 (share of all steps), got {self.warmup}")

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "wavelengths": list(self.wavelengths)}

    @property
    def model(self) -> ModelConfig:
        """The decoder's sizes."""
        return ModelConfig(
            vocab_size=self.modulus + self.eos_prefix,
            d_model=self.d_model,
            n_heads=self.n_heads,
            head_dim=self.head_dim,
            d_ff=self.d_ff,
            n_layers=self.n_layers,
            dropout=self.dropout,
        )

    @property
    def sizes(self) -> Sizes:
        """What a position embedding is made for."""
        return Sizes(
            d_model=self.d_model,
            n_heads=self.n_heads,
            head_dim=self.head_dim,
            train_length=self.before + self.train_length,
            test_length=self.before + self.test_length,
            rope_theta=self.rope_theta,
        )

    @property
    def before(self) -> int:
        """Tokens that the model reads before a sequence: 1 with `eos_prefix`."""
        return int(self.eos_prefix)

    @property
    def reads(self) -> int:
        """So many tokens, at most, lie behind what training predicts: no head meets a longer distance."""
        return self.before + self.train_length - 1

    def split_sizes(self) -> dict[str, Any]:
        """The rows, lengths and kind of split that ``make_splits`` takes."""
        return {
            "train": self.train_rows,
            "validation": self.validation_rows,
            "test": self.test_rows,
            "train_length": self.train_length,
            "test_length": self.test_length,
            "split": self.split,
        }

    def task(self, name: str) -> Task:
        """The task called ``name`` with these j, k, modulus and h."""
        return Task(name=name, j=self.j, k=self.k, modulus=self.modulus, h=self.h, h_seed=self.h_seed)

    def training_spec(self, name: str) -> RopeSpec:
        """``spec``, or without ``scale_in_training`` the same with its scaling taken away."""
        spec = self.spec(name)
        return spec if self.scale_in_training else replace(spec, scaling=None)

    def spec(self, name: str) -> RopeSpec:
        """The position embedding called ``name``, scaled from its original length by ``factor``.

        Raises ValueError for methods that need more than a factor (abf, longrope, proportional).
        """
        if name not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
        parameters = self._parameters(name.removeprefix("resonance-"))
        return method(name, **parameters).spec(head_dim=self.head_dim, rope_theta=self.rope_theta)

    def _parameters(self, name: str) -> dict[str, Any]:
        original = {"original_max_position_embeddings": self.original_length or self.train_length}
        ramp = ("beta_fast", "beta_slow", "ramp", "truncate", "blend")
        match name:
            case "rope":
                return {}
            case "linear" | "ntk":
                return {"factor": self.factor}
            case "dynamic-ntk":
                # The paper's s = length / L; transformers' factor is one more multiplier on top.
                return {"factor": 1.0, **original}
            case "yarn":
                return {"factor": self.factor, **original, **{k: getattr(self, k) for k in ramp}}
            case _:
                return {"factor": self.factor, **original}

    def override(self, changes: dict[str, Any]) -> Settings:
        """A copy with some fields replaced. Raises ValueError on unknown fields, listing what there is."""
        names = [f.name for f in fields(self)]
        for name in changes:
            if name not in names:
                raise ValueError(f"unknown setting {name!r}; there are {', '.join(names)}")
        return replace(self, **changes)
