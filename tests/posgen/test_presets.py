from dataclasses import fields

import pytest

import resrope
from resrope.posgen.presets import PRESETS, SEEDS, TABLE_1_METHODS, preset
from resrope.posgen.settings import METHODS, Settings


def test_the_papers_setting():
    """Section 6.1.1 and Appendix C.1."""
    s = preset("paper")
    assert (s.j, s.k, s.modulus, s.h) == (1, 3, 17, "sum")
    assert (s.train_rows, s.validation_rows, s.test_rows) == (10_000, 1_000, 1_000)
    assert (s.train_length, s.test_length) == (64, 256)
    assert (s.n_layers, s.d_model, s.n_heads, s.head_dim, s.d_ff, s.dropout) == (2, 512, 8, 64, 2048, 0.1)
    assert (s.epochs, s.batch_size, s.learning_rate, s.weight_decay) == (150, 128, 2e-4, 1e-2)
    assert s.rope_theta == 10000.0


def test_yarn_here():
    scaling = preset("paper").spec("resonance-yarn").scaling
    assert scaling == resrope.Yarn(
        factor=4.0, original_max_position_embeddings=64, beta_fast=2.0, beta_slow=1.0
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if "released" not in name])
def test_every_preset_keeps_the_papers_frequencies(name):
    s = preset(name)
    for method in TABLE_1_METHODS:
        assert s.spec(method) == preset("paper").spec(method)
    assert len(SEEDS[name]) == (1 if name == "quick" else 5)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_table_at_both_lengths(name):
    spec = preset("quick").spec(name)
    trained, tested = (resrope.frequencies(spec, seq_len=n) for n in (64, 256))
    assert (trained.periods is not None) == name.startswith("resonance-")
    assert (trained == tested) == (not name.endswith("dynamic-ntk"))


def test_dynamic_ntk_follows_the_length_as_in_the_paper():
    """s = length / L: unscaled in training, NTK-aware by 4 at 256 tokens."""
    s = preset("quick")
    dynamic, ntk = s.spec("dynamic-ntk"), s.spec("ntk")
    assert resrope.frequencies(dynamic, seq_len=64) == resrope.frequencies(s.spec("rope"))
    assert resrope.frequencies(dynamic, seq_len=256) == resrope.frequencies(ntk)


def test_the_authors_reading_of_yarn_is_a_setting():
    """Ramp from L = 257, s = 257/65, scaled at test time only; Resonance stays on in training."""
    s = preset("quick").override({"original_length": 257, "factor": 257 / 65, "scale_in_training": False})
    assert s.spec("yarn").scaling.original_max_position_embeddings == 257
    assert s.training_spec("yarn") == s.spec("rope")
    assert s.training_spec("resonance-yarn") == s.spec("resonance-rope")
    assert preset("quick").training_spec("yarn") == preset("quick").spec("yarn")


def test_override_lands_and_leaves_the_preset_alone():
    changed = preset("quick").override({"epochs": 5})
    assert changed.epochs == 5
    assert preset("quick").epochs != 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; there are j, k, modulus"),
        ({"epochs": 0}, "epochs must be an integer >= 1"),
        ({"epochs": 2.5}, "epochs must be an integer >= 1"),
        ({"head_dim": 63}, "head_dim must be even"),
        ({"factor": 0.5}, "factor must be a finite number >= 1"),
        ({"beta_fast": 1.0}, "beta_fast must be a finite number > 1"),
        ({"train_length": 256}, "train_length must be shorter than test_length, got 256 and 256"),
        ({"train_length": 4}, r"train_length must be > j \+ k = 4, got 4"),
        ({"schedule": "linear"}, "schedule must be one of one-cycle, constant, got 'linear'"),
        ({"dropout": "much"}, "dropout must be a finite number"),
        ({"h": "median"}, "h must be one of sum, latin"),
        ({"h": "product", "modulus": 15}, "h = product must have a prime modulus"),
        ({"warmup": 1}, "warmup must be < 1"),
    ],
)
def test_user_mistakes(changes, message):
    with pytest.raises(ValueError, match=message):
        preset("quick").override(changes)


def test_any_junk_in_any_field_is_a_value_error():
    for field in fields(Settings):
        for junk in (
            "x",
            -1,
            float("nan"),
            {1},
            *([] if field.name in ("original_length", "patience") else [None]),
        ):
            with pytest.raises(ValueError, match=r"."):
                preset("quick").override({field.name: junk})
        if isinstance(getattr(Settings(), field.name), int):
            with pytest.raises(ValueError, match=r"."):
                preset("quick").override({field.name: 10**30})


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="unknown preset 'fast'; there are quick, small, paper"):
        preset("fast")
    with pytest.raises(ValueError, match="method must be one of rope, resonance-rope"):
        preset("quick").spec("longrope")
