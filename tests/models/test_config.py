"""Configs read by hand-worked expectation, what is refused, and files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resrope import DynamicNTK, Linear, Llama3, LongRope, Proportional, RopeSpec, Yarn
from resrope.models import ModelRope, read_config, rope_from_config

LLAMA = {"model_type": "llama", "hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 4096}


def only(**given: Any) -> RopeSpec:
    return rope_from_config({**LLAMA, **given}).specs["default"]


def test_a_plain_llama():
    assert rope_from_config(LLAMA) == ModelRope(
        model_type="llama",
        specs={"default": RopeSpec(head_dim=64, rope_theta=10000.0)},
        max_position_embeddings=4096,
        original_max_position_embeddings=None,
    )


def test_each_rope_type_becomes_its_scaling():
    theta = {"rope_theta": 10000.0}
    length = {"original_max_position_embeddings": 1024}
    expected = {
        "default": None,
        "mrope": None,
        "linear": Linear(factor=4),
        "dynamic": DynamicNTK(factor=4, original_max_position_embeddings=4096),
        "yarn": Yarn(factor=4, **length),
        "llama3": Llama3(factor=4, **length, low_freq_factor=1, high_freq_factor=4),
        "longrope": LongRope(short_factor=(1.0,) * 32, long_factor=(2.0,) * 32, factor=4, **length),
        "proportional": Proportional(factor=4),
    }
    extra = {
        "llama3": {"low_freq_factor": 1, "high_freq_factor": 4},
        "longrope": {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32},
    }
    for kind, scaling in expected.items():
        factor = {"factor": 4} if scaling is not None else {}
        given = {"rope_type": kind, **theta, **factor, **length, **extra.get(kind, {})}
        assert only(rope_parameters=given).scaling == scaling
    assert (
        only(rope_scaling={"type": "su", "factor": 4, **length, **extra["longrope"]}).scaling
        == expected["longrope"]
    )


def test_what_is_left_out_of_yarn_and_longrope():
    assert only(rope_scaling={"type": "yarn", "factor": 4}).scaling == Yarn(
        factor=4, original_max_position_embeddings=4096
    )
    ratio = {"original_max_position_embeddings": 1024}
    assert only(rope_scaling={"type": "yarn", **ratio}).scaling.factor == 4
    factors = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    assert only(rope_scaling={"type": "longrope", **factors, **ratio}).scaling.factor == 4
    outer = rope_from_config({**LLAMA, "rope_scaling": {"type": "longrope", **factors}, **ratio})
    assert outer.specs["default"].scaling.factor == 4
    assert outer.original_max_position_embeddings == 1024


def test_latent_attention_rotates_its_own_part_of_the_head():
    assert only(qk_rope_head_dim=32, model_type="deepseek_v3").head_dim == 32
    assert only(qk_rope_head_dim=32, head_dim=32, model_type="deepseek_v3").head_dim == 32


@pytest.mark.parametrize(("rotary_dim", "heads"), [(64, 16), (2, 98), (32, 80), (22, 46)])
def test_rotary_dim_is_kept_exactly(rotary_dim, heads):
    spec = rope_from_config(
        {"model_type": "gptj", "n_embd": 256 * heads, "n_head": 256, "rotary_dim": min(rotary_dim, heads)}
    ).specs["default"]
    assert spec.rotary_dim == min(rotary_dim, heads)
    assert spec.head_dim == heads


def test_the_text_part_of_a_multimodal_config_wins_where_it_rotates():
    text = {**LLAMA, "rope_theta": 5e5}
    expected = rope_from_config(text)
    for outer in ({}, {"rope_theta": 1e4}, {"vision_config": {"hidden_size": 7}}):
        assert rope_from_config({"model_type": "llava", **outer, "text_config": text}) == expected
    assert rope_from_config({"thinker_config": {"text_config": text}}) == expected
    sparse = {"model_type": "qwen2_vl", **{k: v for k, v in text.items() if k != "model_type"}}
    assert rope_from_config({**sparse, "text_config": {"vocab_size": 3}}).specs == expected.specs


def test_mrope_is_plain_rope_to_the_table():
    given = {"type": "mrope", "mrope_section": [16, 24, 24]}
    assert only(rope_scaling=given) == only()
    both = {"rope_type": "default", "type": "default", "mrope_section": [16, 24, 24]}
    assert only(rope_scaling=both) == only()


def test_layer_types_that_do_not_rotate_are_left_out():
    rope = rope_from_config(
        {**LLAMA, "rope_parameters": {"full_attention": None, "sliding_attention": {"rope_theta": 1e4}}}
    )
    assert list(rope.specs) == ["sliding_attention"]


REFUSED = [
    ({"rope_scaling": {"type": "abf", "factor": 2}}, "rope_type must be one of default, linear, .*got 'abf'"),
    ({"rope_scaling": {"type": ["yarn"]}}, "rope_type must be one of"),
    (
        {"rope_scaling": {"type": "dynamic", "factor": 1, "alpha": 1000}},
        "dynamic does not take alpha; it takes factor",
    ),
    ({"rope_scaling": {"type": "linear", "factor": 2, "beta": 1}}, "linear does not take beta"),
    (
        {
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0] * 16,
                "long_factor": [1.0] * 16,
                "short_mscale": 1.2,
            }
        },
        "short_mscale must equal attention_factor",
    ),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "short_mscale": 1}}, "yarn does not take short_mscale"),
    ({"rope_scaling": {"type": "linear"}}, "linear needs factor"),
    ({"rope_scaling": {"type": "llama3", "factor": 8}}, "llama3 needs low_freq_factor"),
    ({"rope_scaling": {"type": "longrope", "factor": 8}}, "longrope needs short_factor"),
    ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor must be a finite number >= 1"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be a finite number"),
    ({"rope_scaling": "linear"}, "rope_scaling must be a mapping or null"),
    (
        {"rope_scaling": {"type": "yarn", "factor": 2}, "max_position_embeddings": None},
        "yarn needs max_position",
    ),
    (
        {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1e4}},
        "must not differ",
    ),
    ({"rope_theta": "10000"}, "rope_theta must be a finite number"),
    ({"rope_theta": True}, "rope_theta must be a finite number"),
    ({"model_type": "new", "partial_rotary_factor": 0.5}, "rope_theta is missing, and model_type 'new'"),
    ({"model_type": "qwen", "rotary_pct": 1.0, "use_dynamic_ntk": True}, "use_dynamic_ntk"),
    (
        {"model_type": "new"},
        "no rotary position embedding in a config of model_type 'new': it would have one of",
    ),
    ({"model_type": "falcon", "alibi": True}, "no rotary position embedding"),
    ({"rope_theta": 1e4, "position_embedding_type": "absolute"}, "no rotary position embedding"),
    ({"hidden_size": None}, "head_dim is missing, and so is hidden_size"),
    ({"num_attention_heads": 0}, "num_attention_heads must be an integer >= 1"),
    ({"head_dim": "64"}, "head_dim must be an integer"),
    ({"head_dim": 63}, "head_dim must be even"),
    ({"max_position_embeddings": "4096"}, "max_position_embeddings must be an integer"),
    (
        {
            "rope_parameters": {"a": {"rope_theta": 1e4}},
            "layer_types": ["a", "a"],
            "per_layer_config": {"00": {"head_dim": 8}},
        },
        "per_layer_config gives the layers of type a different head_dim",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda x: str(x)[:60])
def test_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        rope_from_config({**LLAMA, **given})
    assert "\n" not in str(error.value)


KEYS = [
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "head_dim",
    "hidden_size",
    "model_type",
    "rotary_dim",
    "text_config",
    "type",
]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["yarn", "llama", "", "linear"]),
    lambda x: (
        st.lists(x, max_size=2)
        | st.dictionaries(st.sampled_from([*KEYS, "rope_type", "factor"]), x, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(KEYS), JUNK), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=400)
def test_any_config_gives_a_rope_or_a_value_error(config, on_top):
    try:
        rope = rope_from_config({**LLAMA, **config} if on_top else config)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert rope.specs


def test_a_file_and_its_folder_read_the_same(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    expected = rope_from_config(LLAMA)
    assert (
        read_config(tmp_path)
        == read_config(tmp_path / "config.json")
        == read_config(str(tmp_path))
        == expected
    )


@pytest.mark.parametrize("text", ["", "{", "\x00", "[1, 2]", "3", "null", '"x"'])
def test_what_is_no_config_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: ") as error:
        read_config(path)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_config(tmp_path)


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no such file or folder; give a config\.json, a folder"):
        read_config(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"the folder holds no config\.json"):
        read_config(tmp_path)


def test_a_config_without_rope_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 768}))
    with pytest.raises(ValueError, match=r"config\.json: no rotary position embedding in .*'bert'"):
        read_config(tmp_path)
