"""Settings by name: the paper's, its authors' code's, and small ones."""

from __future__ import annotations

from typing import Any

from resrope.posgen.settings import Settings

# The four embeddings of Table 1, in its order.
TABLE_1_METHODS = ("rope", "resonance-rope", "yarn", "resonance-yarn")

# What the authors' code (github.com/sheryc/resonance_rope at 4a7f5a7) does otherwise, by what it changes. The
# layers come first: every later rung of the ladder then trains in a third of the time.
SWITCHES: dict[str, tuple[str, ...]] = {
    "layers": ("n_layers",),
    "split": ("split",),
    "feed-forward": ("train_feed_forward",),
    "scaling": ("scale_in_training",),
    "ramp": ("original_length", "beta_fast"),
    "factor": ("factor",),
    "eos": ("eos_prefix",),
    "checkpoint": ("best_by", "patience", "looks"),
}


def released(settings: Settings) -> Settings:
    """``settings`` as the authors' code would run them, with every switch thrown.

    Their lengths count the token before the sequence: 257 / 65 is s, and 257 the L of YaRN's ramp. They look
    every second of 150 epochs, so that their patience of 100 looks never ends a run.
    """
    train, test = settings.train_length + 1, settings.test_length + 1
    return settings.override(
        {
            "split": "released",
            "train_feed_forward": False,
            "n_layers": 6,
            "scale_in_training": False,
            "original_length": test,
            "beta_fast": 2.0,
            "factor": test / train,
            "eos_prefix": True,
            "best_by": "accuracy",
            "patience": 100,
            "looks": min(settings.looks, 75),
        }
    )


_SMALL: dict[str, Any] = {
    "d_model": 128,
    "n_heads": 2,
    "d_ff": 512,
    "dropout": 0.0,
    "batch_size": 16,
    "learning_rate": 1.5e-3,
    "warmup": 0.2,
}

PRESETS: dict[str, Settings] = {
    # Under a minute a cell. head_dim stays 64 in all presets, so that the frequencies are the paper's.
    "quick": Settings().override({**_SMALL, "epochs": 2, "looks": 8, "look_rows": 100}),
    # A few minutes a cell: for five seeds and intervals.
    "small": Settings().override({**_SMALL, "epochs": 8, "looks": 16, "look_rows": 250}),
    "paper": Settings(),
}
PRESETS |= {f"{name}-released".removeprefix("paper-"): released(one) for name, one in PRESETS.items()}
SEEDS: dict[str, tuple[int, ...]] = {
    name: (0,) if name.startswith("quick") else (0, 1, 2, 3, 4) for name in PRESETS
}


def preset(name: str) -> Settings:
    """The preset called ``name``. Raises ValueError listing what there is."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
