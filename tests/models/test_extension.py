import pytest

from resrope import DynamicNTK, Llama3, RopeSpec, Yarn, frequencies
from resrope.models import rope_from_config
from resrope.models.extension import extension, trained_length, unchanged

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "rope_theta": 5e5,
}
LLAMA3 = {
    **LLAMA,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
GEMMA3 = {
    "model_type": "gemma3_text",
    "head_dim": 64,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}


def extended(config, name, **kwargs):
    return extension(rope_from_config(config), name, **kwargs)


@pytest.mark.parametrize(
    ("name", "given", "length"),
    [
        ("yarn", {"factor": 4}, 32768),
        ("resonance-yarn", {"length": 32768}, 32768),
        ("yarn", {"factor": 2, "original_max_position_embeddings": 4096}, 8192),
        ("ntk", {"factor": 2}, 16384),
        ("linear", {"length": 12288}, 12288),
        ("rope", {}, 8192),
        ("resonance-rope", {"length": 10000}, 10000),
        ("abf", {"rope_theta": 1e7, "length": 65536}, 65536),
        ("dynamic-ntk", {"length": 20000}, 20000),
        ("dynamic-ntk", {"factor": 4.0}, 32768),
    ],
)
def test_the_length_that_a_method_reaches(name, given, length):
    done = extended(LLAMA, name, **given)
    assert done.length == done.after.max_position_embeddings == length
    assert done.after.specs["default"].resonance == name.startswith("resonance")


def test_a_length_gives_the_factor():
    assert extended(LLAMA, "yarn", length=32768).after.specs["default"].scaling == Yarn(
        factor=4.0, original_max_position_embeddings=8192
    )


def test_dynamic_ntk_is_open_until_a_length_fixes_it():
    assert not extended(LLAMA, "dynamic-ntk", factor=2.0).fixed_length
    fixed = extended(LLAMA, "dynamic-ntk", length=20000)
    assert fixed.fixed_length
    assert fixed.after.specs["default"].scaling == DynamicNTK(
        factor=1.0, original_max_position_embeddings=8192, seq_len=20000
    )


def test_resonance_on_top_of_the_models_own_scaling():
    done = extended(LLAMA3, "resonance-llama3")
    assert done.after.specs["default"].scaling == Llama3(factor=8.0, original_max_position_embeddings=8192)
    assert done.length == 131072, "only Resonance is new"


def test_only_layers_without_a_window_change():
    done = extended(GEMMA3, "resonance-yarn", factor=4)
    assert done.layers == ("full_attention",)
    assert done.after.specs["sliding_attention"] == done.before.specs["sliding_attention"]
    both = extended(GEMMA3, "resonance-rope", layers=("full_attention", "sliding_attention"))
    assert all(t.periods for t in both.tables().values())


def test_replacing_counts_from_the_trained_length():
    done = extended(LLAMA3, "yarn", factor=16, replace_scaling=True)
    assert done.after.specs["default"].scaling == Yarn(factor=16, original_max_position_embeddings=8192)
    assert done.length == 131072


def test_the_trained_length_of_a_linear_model_is_not_its_longest():
    linear = {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert trained_length(rope_from_config(LLAMA)) == 8192
    assert trained_length(rope_from_config(linear)) is None
    with pytest.raises(ValueError, match="original_max_position_embeddings must be given"):
        extended(linear, "yarn", factor=4, replace_scaling=True)


def test_unchanged_keeps_every_table():
    rope = rope_from_config(LLAMA3)
    same = unchanged(rope)
    assert same.tables() == {"default": frequencies(rope.specs["default"])}
    assert same.method == "llama3"


@pytest.mark.parametrize(
    ("config", "name", "given", "message"),
    [
        (LLAMA3, "resonance-rope", {}, "keep it with resonance-llama3"),
        (LLAMA3, "yarn", {"factor": 16}, r"llama3 \(factor 8, .* replace_scaling \(--replace\)"),
        (LLAMA3, "resonance-llama3", {"factor": 16}, "got factor 16: the model's own counts when"),
        (LLAMA, "yarn", {"factor": 4, "length": 1000}, r"4 · 8192 = 32768 and 1000"),
        (LLAMA, "yarn", {"length": 1000}, "length must be >= 8192"),
        (LLAMA, "yarn", {}, "factor"),
        (LLAMA, "yarn", {"factor": 4, "beta": 1}, "Yarn does not take beta"),
        (LLAMA3, "resonance-llama3", {"factor": "8"}, "got factor 8: the model's own counts when"),
        (LLAMA, "yarn", {"factor": "8"}, "factor must be a finite number"),
        (LLAMA, "yarn", {"factor": 8, "original_max_position_embeddings": "1"}, "must be an integer >= 1"),
        (LLAMA, "yarn", {"factor": 4, "layers": "default"}, "layers must be a tuple of layer types"),
        (LLAMA, "yarn", {"factor": 1e9}, "length must be an integer >= 1 and <= 2147483647"),
        (LLAMA, "ntk", {"factor": 1e300}, "length must be"),
        (LLAMA, None, {"factor": 4}, "unknown method None"),
        (LLAMA, "yarn", {"factor": 4, "layers": 3}, "layers must be a tuple of layer types, got 3"),
        (LLAMA, "yarn", {}, r"factor \(--factor\) or length \(--length\)"),
        (LLAMA, "rope", {"factor": 4}, "takes no parameters"),
        (LLAMA, "no-such", {}, "unknown method"),
        (LLAMA, "yarn", {"factor": 4, "layers": ("sliding_attention",)}, "layers must be among default"),
        (LLAMA, "ntk", {"factor": 4, "length": 0}, "length must be an integer >= 1"),
        ({**LLAMA, "max_position_embeddings": None}, "yarn", {"factor": 4}, "must be given"),
    ],
)
def test_refused_in_one_line(config, name, given, message):
    with pytest.raises(ValueError, match=message) as error:
        extended(config, name, **given)
    assert "\n" not in str(error.value)


def test_a_table_for_every_length_cannot_be_kept_as_one():
    rope = rope_from_config({**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})
    with pytest.raises(ValueError, match="give the method and length="):
        unchanged(rope)


def test_head_size_and_base_stay():
    done = extended(GEMMA3, "yarn", factor=4)
    assert done.after.specs["full_attention"] == RopeSpec(
        head_dim=64, rope_theta=1e6, scaling=Yarn(factor=4, original_max_position_embeddings=32768)
    )
