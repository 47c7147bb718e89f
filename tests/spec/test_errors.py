"""Whatever a user gives: a value that works, or one ValueError in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resrope
from resrope import (
    AdjustedBase,
    DynamicNTK,
    Frequencies,
    Linear,
    Llama3,
    LongRope,
    NTKAware,
    Proportional,
    RopeSpec,
    Yarn,
    frequencies,
    method,
    methods,
)

L = {"original_max_position_embeddings": 4096}
VALID = {
    RopeSpec: {"head_dim": 64, "rope_theta": 1e4, "partial_rotary_factor": 0.5, "scaling": None},
    Linear: {"factor": 4.0},
    NTKAware: {"factor": 4.0, "paper_base": False},
    AdjustedBase: {"rope_theta": 1e6},
    DynamicNTK: {"factor": 4.0, **L, "seq_len": 8192},
    Yarn: {
        "factor": 4.0,
        **L,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "ramp": "index",
        "truncate": True,
        "blend": "frequency",
        "attention_factor": 1.5,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    Llama3: {"factor": 8.0, **L, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    LongRope: {
        "short_factor": (1.0,) * 16,
        "long_factor": (2.0,) * 16,
        "factor": 4.0,
        **L,
        "attention_factor": 1.5,
        "seq_len": 4096,
    },
    Proportional: {"factor": 2.0},
    Frequencies: {"inv_freq": (1.0, 0.5), "attention_factor": 1.0, "periods": None},
}
OPTIONAL = {"scaling", "seq_len", "attention_factor", "mscale", "mscale_all_dim", "periods"}
NEVER = [float("nan"), float("inf"), -float("inf"), "8", "", -1, [[]], {"a": 1}, object(), 1j, b"x", 10**400]
FIELDS = [(cls, field) for cls, valid in VALID.items() for field in valid]


def one_line(error: ValueError) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("cls", VALID)
def test_the_valid_values_are_valid(cls):
    cls(**VALID[cls])


@pytest.mark.parametrize(("cls", "field"), FIELDS)
def test_junk_in_any_field_is_refused_by_name(cls, field):
    junk = list(NEVER)
    if not isinstance(VALID[cls][field], bool):
        junk += [True, False]
    if field not in OPTIONAL or (cls, field) == (Frequencies, "attention_factor"):
        junk += [None]
    for value in junk:
        with pytest.raises(ValueError, match=field) as error:
            cls(**{**VALID[cls], field: value})
        one_line(error.value)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats() | st.text(max_size=2), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["index", "turns", "frequency", "wavelength", 10**400, -(10**400)]),
)


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=400)
def test_constructing_from_junk_gives_a_value_or_a_value_error(data):
    cls = data.draw(st.sampled_from(list(VALID)))
    fields = data.draw(st.sets(st.sampled_from(list(VALID[cls])), min_size=1))
    values = {**VALID[cls], **{f: data.draw(JUNK, label=f) for f in sorted(fields)}}
    try:
        made = cls(**values)
    except ValueError as error:
        one_line(error)
    else:
        assert made == cls(**values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["head_dim", "scaling", "name", "inv_freq", "periods", "factor", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_reading_any_json_gives_a_value_or_a_value_error(junk):
    for read in (
        RopeSpec.from_dict,
        Frequencies.from_dict,
        lambda j: RopeSpec.from_dict({"head_dim": 64, "scaling": j}),
        lambda j: RopeSpec.from_json(json.dumps(j)),
        lambda j: Frequencies.from_json(json.dumps(j)),
        lambda j: Frequencies.from_dict({"inv_freq": [1.0], "periods": j}),
    ):
        try:
            read(junk)
        except ValueError as error:
            one_line(error)


@given(st.text(max_size=20))
@settings(derandomize=True)
def test_reading_any_text_as_json_gives_a_value_error(text):
    for cls in (RopeSpec, Frequencies):
        with pytest.raises(ValueError, match=r".") as error:
            cls.from_json(text)
        one_line(error.value)


@pytest.mark.parametrize("name", methods())
def test_a_method_names_the_parameters_it_does_not_take_and_those_it_needs(name):
    with pytest.raises(ValueError, match="does not take betafast") as error:
        method(name, betafast=2)
    one_line(error.value)
    if not name.endswith(("rope", "proportional")) or name.endswith("longrope"):
        with pytest.raises(ValueError, match="needs"):
            method(name)


@pytest.mark.parametrize("name", ["ropes", "", "resonance", "YARN", None, 3, ["yarn"]])
def test_an_unknown_method_lists_what_there_is(name):
    with pytest.raises(ValueError, match="unknown method") as error:
        method(name)
    assert all(known in one_line(error.value) for known in methods())


def test_unknown_and_missing_keys():
    spec, table = RopeSpec(head_dim=64), frequencies(RopeSpec(head_dim=4))
    with pytest.raises(ValueError, match="RopeSpec does not take head_dims; it takes head_dim, rope_theta"):
        RopeSpec.from_dict({**spec.to_dict(), "head_dims": 64})
    with pytest.raises(ValueError, match="RopeSpec needs head_dim, got rope_theta"):
        RopeSpec.from_dict({"rope_theta": 1e4})
    with pytest.raises(ValueError, match="Frequencies does not take inv_freqs"):
        Frequencies.from_dict({**table.to_dict(), "inv_freqs": [1.0]})
    with pytest.raises(ValueError, match="Frequencies needs inv_freq, got nothing"):
        Frequencies.from_dict({})
    with pytest.raises(ValueError, match="Yarn does not take beta"):
        RopeSpec.from_dict({"head_dim": 64, "scaling": {"name": "yarn", "factor": 4, **L, "beta": 1}})
    with pytest.raises(ValueError, match="Yarn needs original_max_position_embeddings"):
        RopeSpec.from_dict({"head_dim": 64, "scaling": {"name": "yarn", "factor": 4}})
    with pytest.raises(ValueError, match="scaling must have a name among linear, abf"):
        RopeSpec.from_dict({"head_dim": 64, "scaling": {"name": "pi", "factor": 4}})


@pytest.mark.parametrize("head_dim", [0, 1, 3, 63, -64, 64.0])
def test_head_dim_must_be_even_and_positive(head_dim):
    with pytest.raises(ValueError, match="head_dim"):
        RopeSpec(head_dim=head_dim)


@pytest.mark.parametrize(("head_dim", "share"), [(64, 1.5), (64, 0.0), (64, 0.01), (80, 0.34)])
def test_the_rotated_part_must_be_even_and_within_the_head(head_dim, share):
    with pytest.raises(ValueError, match="partial_rotary_factor"):
        RopeSpec(head_dim=head_dim, partial_rotary_factor=share)


@pytest.mark.parametrize("theta", [1, 0, -10000, 0.5])
def test_rope_theta_must_exceed_1(theta):
    for make in (lambda t: RopeSpec(head_dim=64, rope_theta=t), lambda t: AdjustedBase(rope_theta=t)):
        with pytest.raises(ValueError, match=r"rope_theta must be a finite number > 1"):
            make(theta)


@pytest.mark.parametrize("cls", [c for c, v in VALID.items() if "factor" in v])
def test_factor_below_1_is_refused(cls):
    for factor in (0.999, 0, -4, 0.0):
        with pytest.raises(ValueError, match=r"factor must be a finite number >= 1 .*got "):
            cls(**{**VALID[cls], "factor": factor})


def test_bounds_must_be_in_order():
    for fast, slow in ((1, 1), (1, 2), (32, 32)):
        with pytest.raises(ValueError, match=f"beta_fast must be a finite number > {slow}"):
            Yarn(factor=4, **L, beta_fast=fast, beta_slow=slow)
    for high, low in ((1, 1), (1, 4)):
        with pytest.raises(ValueError, match=f"high_freq_factor must be a finite number > {low}"):
            Llama3(factor=4, **L, high_freq_factor=high, low_freq_factor=low)


def test_words_are_listed():
    with pytest.raises(ValueError, match="ramp must be one of index, turns, got 'paper'"):
        Yarn(factor=4, **L, ramp="paper")
    with pytest.raises(ValueError, match="blend must be one of frequency, wavelength, got 'mean'"):
        Yarn(factor=4, **L, blend="mean")


def test_combinations_without_a_table():
    ntk = NTKAware(factor=2)
    with pytest.raises(ValueError, match="NTK scaling needs at least 4 rotated dimensions, got 2"):
        RopeSpec(head_dim=2, scaling=ntk)
    longrope = LongRope(**VALID[LongRope])
    with pytest.raises(ValueError, match="short_factor must hold rotary_dim/2 = 32 numbers, got 16"):
        RopeSpec(head_dim=64, scaling=longrope)
    with pytest.raises(ValueError, match="scaling must be one of"):
        RopeSpec(head_dim=64, scaling="yarn")
    with pytest.raises(ValueError, match="got 16"):
        replace(RopeSpec(head_dim=32, scaling=longrope), partial_rotary_factor=0.5)


def test_resonance_needs_a_wavelength_that_does_not_round_to_0():
    tiny = LongRope(
        short_factor=(0.07, 1.0), long_factor=(0.07, 1.0), factor=1, original_max_position_embeddings=64
    )
    with pytest.raises(ValueError, match=r"wavelengths above 0.5 tokens, got 0.44"):
        frequencies(RopeSpec(head_dim=4, scaling=tiny, resonance=True))
    assert frequencies(RopeSpec(head_dim=4, scaling=tiny)).inv_freq[0] == pytest.approx(1 / 0.07)


def test_tables_that_contradict_themselves():
    with pytest.raises(ValueError, match="inv_freq must hold"):
        Frequencies(inv_freq=())
    with pytest.raises(ValueError, match="periods must be as many as inv_freq, got 1 and 2"):
        Frequencies(inv_freq=(1.0, 0.5), periods=(6,))
    with pytest.raises(ValueError, match="periods must be integers with inv_freq = 2π / period"):
        Frequencies(inv_freq=(1.0,), periods=(6,))
    with pytest.raises(ValueError, match="every period must be an integer >= 1"):
        Frequencies(inv_freq=(1.0,), periods=(0,))


def test_extremes_give_a_table_or_a_value_error():
    huge = [1e300, 1.7e308]
    specs = [
        RopeSpec(head_dim=64, rope_theta=theta, scaling=s, resonance=resonance)
        for theta in (1 + 2**-52, *huge)
        for resonance in (False, True)
        for f in huge
        for s in (
            Linear(factor=f),
            NTKAware(factor=f),
            NTKAware(factor=f, paper_base=True),
            DynamicNTK(factor=f, **L),
            Yarn(factor=f, **L),
            Yarn(factor=2, **L, beta_fast=1.7e308),
            Yarn(factor=2, **L, beta_slow=5e-324),
            Llama3(factor=f, **L),
        )
    ]
    for spec in specs:
        try:
            table = frequencies(spec)
        except ValueError as error:
            one_line(error)
        else:
            assert all(f > 0 for f in table.inv_freq), spec  # never silently standing still


def test_the_package_names_what_it_exports():
    assert all(getattr(resrope, name) is not None for name in resrope.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        resrope.nothing  # noqa: B018
