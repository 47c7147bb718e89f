"""Properties of every spec: identity at factor 1, Resonance on top, order, and dictionaries and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
)

FACTORS = st.one_of(st.just(1), st.floats(1, 64))
LENGTHS = st.integers(64, 1 << 17)
SEQ_LENS = st.none() | st.integers(1, 1 << 20)
ATTENTION = st.none() | st.floats(0.25, 4)
DETERMINISTIC = settings(derandomize=True, deadline=None, max_examples=150)


@st.composite
def longropes(draw: st.DrawFn, rotary_dim: int) -> LongRope:
    factors = st.lists(st.floats(1, 64), min_size=rotary_dim // 2, max_size=rotary_dim // 2).map(tuple)
    return LongRope(
        short_factor=draw(factors),
        long_factor=draw(factors),
        factor=draw(FACTORS),
        original_max_position_embeddings=draw(LENGTHS),
        attention_factor=draw(ATTENTION),
        seq_len=draw(SEQ_LENS),
    )


def scalings(rotary_dim: int) -> st.SearchStrategy:
    kinds = [
        st.none(),
        st.builds(Linear, factor=FACTORS),
        st.builds(NTKAware, factor=FACTORS, paper_base=st.booleans()),
        st.builds(AdjustedBase, rope_theta=st.floats(100, 1e8)),
        st.builds(DynamicNTK, factor=FACTORS, original_max_position_embeddings=LENGTHS, seq_len=SEQ_LENS),
        st.builds(
            Yarn,
            factor=FACTORS,
            original_max_position_embeddings=LENGTHS,
            beta_fast=st.floats(2, 64),
            beta_slow=st.floats(0.1, 1.5),
            ramp=st.sampled_from(["index", "turns"]),
            truncate=st.booleans(),
            blend=st.sampled_from(["frequency", "wavelength"]),
            attention_factor=ATTENTION,
            mscale=ATTENTION,
            mscale_all_dim=ATTENTION,
        ),
        st.builds(
            Llama3,
            factor=FACTORS,
            original_max_position_embeddings=LENGTHS,
            low_freq_factor=st.floats(0.1, 1.5),
            high_freq_factor=st.floats(2, 8),
        ),
        st.builds(Proportional, factor=FACTORS),
        longropes(rotary_dim),
    ]
    return st.one_of(*kinds)


@st.composite
def specs(draw: st.DrawFn) -> RopeSpec:
    # Multiples of 16 keep the rotated part even, at least 4, and the same for both ways to count it.
    head_dim, share = draw(st.sampled_from([16, 32, 64, 128, 256])), draw(st.sampled_from([1.0, 0.5, 0.25]))
    return RopeSpec(
        head_dim=head_dim,
        rope_theta=draw(st.sampled_from([10000, 1e5, 5e5, 1e7]) | st.floats(100, 1e8)),
        partial_rotary_factor=share,
        scaling=draw(scalings(int(head_dim * share))),
        resonance=draw(st.booleans()),
    )


@given(specs())
@DETERMINISTIC
def test_spec_survives_dict_and_json(spec):
    assert RopeSpec.from_dict(spec.to_dict()) == spec
    assert RopeSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json()) == spec.to_dict()  # nothing but JSON types
    assert hash(RopeSpec.from_json(spec.to_json())) == hash(spec)


@given(specs())
@DETERMINISTIC
def test_table_survives_dict_and_json_bit_for_bit(spec):
    table = frequencies(spec)
    assert Frequencies.from_dict(table.to_dict()) == table
    assert Frequencies.from_json(table.to_json()) == table
    assert json.loads(table.to_json()) == table.to_dict()


@given(specs())
@DETERMINISTIC
def test_resonance_rounds_the_scaled_wavelengths_and_nothing_else(spec):
    scaled = frequencies(replace(spec, resonance=False))
    resonant = frequencies(replace(spec, resonance=True))
    assert scaled.periods is None
    assert resonant.attention_factor == scaled.attention_factor
    assert len(resonant.periods) == len(scaled.inv_freq)
    for period, before, after, wavelength in zip(
        resonant.periods, scaled.inv_freq, resonant.inv_freq, resonant.wavelengths, strict=True
    ):
        if before == 0:  # a feature that does not turn stays so
            assert (period, after, wavelength) == (1, 0.0, math.inf)
        else:
            exact = math.tau / before
            assert abs(period - exact) <= 0.5 + 1e-15 * exact
            assert after == math.tau / period
            assert wavelength == period


@given(specs())
@DETERMINISTIC
def test_wavelengths_never_shrink_under_scaling_and_grow_with_the_index(spec):
    scaled = frequencies(replace(spec, resonance=False)).wavelengths
    if not isinstance(spec.scaling, LongRope):
        assert all(a <= b * (1 + 1e-14) for a, b in pairwise(scaled))
    if not isinstance(spec.scaling, AdjustedBase | Proportional):
        plain = frequencies(replace(spec, scaling=None, resonance=False)).wavelengths
        assert all(a >= b * (1 - 1e-14) for a, b in zip(scaled, plain, strict=True))
    if isinstance(spec.scaling, Yarn | Llama3):  # and never beyond position interpolation
        limit = [w * spec.scaling.factor * (1 + 1e-14) for w in plain]
        assert all(a <= b for a, b in zip(scaled, limit, strict=True))


ONES = (1.0,) * 32
IDENTITIES = [
    Linear(factor=1),
    NTKAware(factor=1),
    NTKAware(factor=1, paper_base=True),
    AdjustedBase(rope_theta=10000.0),  # the base the spec has
    DynamicNTK(factor=1, original_max_position_embeddings=4096),
    DynamicNTK(factor=8, original_max_position_embeddings=4096, seq_len=4096),  # not beyond the original
    DynamicNTK(factor=8, original_max_position_embeddings=4096, seq_len=1),
    *(
        Yarn(factor=1, original_max_position_embeddings=4096, ramp=ramp, blend=blend, truncate=truncate)
        for ramp in ("index", "turns")
        for blend in ("frequency", "wavelength")
        for truncate in (True, False)
    ),
    Yarn(factor=1, original_max_position_embeddings=4096, mscale=0.7, mscale_all_dim=1.3),
    Llama3(factor=1, original_max_position_embeddings=4096),
    # LongRoPE is the identity at factor 1 if the factors of the served length are ones.
    LongRope(short_factor=ONES, long_factor=(2.0,) * 32, factor=1, original_max_position_embeddings=4096),
    Proportional(factor=1),  # with every feature turning
]


@pytest.mark.parametrize("scaling", IDENTITIES, ids=str)
def test_factor_1_is_the_identity(scaling):
    for theta in (1e4,) if isinstance(scaling, AdjustedBase) else (1e4, 5e5, 1e7):
        plain, table = (
            frequencies(RopeSpec(head_dim=64, rope_theta=theta, scaling=s)) for s in (None, scaling)
        )
        assert table == plain  # to the last bit: what is mixed is equal, and the mix is written so
    resonant = [frequencies(RopeSpec(head_dim=64, scaling=s, resonance=True)) for s in (None, scaling)]
    assert resonant[0] == resonant[1]


def test_linear_stretches_every_wavelength_by_the_factor():
    spec = RopeSpec(head_dim=64)
    stretched = frequencies(replace(spec, scaling=Linear(factor=4)))
    assert stretched.inv_freq == tuple(f / 4 for f in frequencies(spec).inv_freq)


def test_ntk_keeps_the_first_feature_and_interpolates_the_last_by_exactly_the_factor():
    spec = RopeSpec(head_dim=64)
    plain, ntk = (frequencies(s).inv_freq for s in (spec, replace(spec, scaling=NTKAware(factor=4))))
    assert ntk[0] == plain[0] == 1.0
    assert plain[-1] / ntk[-1] == pytest.approx(4, rel=1e-13)
    assert all(1 <= a / b <= 4 + 1e-12 for a, b in zip(plain, ntk, strict=True))


def test_adjusted_base_is_plain_rope_of_the_other_base():
    adjusted = RopeSpec(head_dim=64, rope_theta=1e4, scaling=AdjustedBase(rope_theta=1e6))
    assert frequencies(adjusted) == frequencies(RopeSpec(head_dim=64, rope_theta=1e6))


def test_dynamic_ntk_at_factor_1_is_ntk_aware_by_the_length_read():
    dynamic = DynamicNTK(factor=1, original_max_position_embeddings=2048)
    for n in (2048, 4096, 10240):
        ntk = RopeSpec(head_dim=64, scaling=NTKAware(factor=n / 2048))
        assert frequencies(RopeSpec(head_dim=64, scaling=dynamic), seq_len=n) == frequencies(ntk)


def test_dynamic_ntk_left_without_a_length_serves_factor_times_the_original():
    spec = RopeSpec(head_dim=64, scaling=DynamicNTK(factor=4, original_max_position_embeddings=2048))
    assert frequencies(spec) == frequencies(spec, seq_len=8192) != frequencies(spec, seq_len=2048)
    last = [frequencies(spec, seq_len=n).inv_freq[-1] for n in (1, 2048, 2049, 4096, 8192)]
    assert last[0] == last[1] > last[2] > last[3] > last[4]


def test_longrope_chooses_by_length():
    scaling = LongRope(
        short_factor=ONES, long_factor=(2.0,) * 32, factor=4, original_max_position_embeddings=2048
    )
    spec, plain = RopeSpec(head_dim=64, scaling=scaling), RopeSpec(head_dim=64)
    assert frequencies(spec, seq_len=2048).inv_freq == frequencies(plain).inv_freq
    assert frequencies(spec, seq_len=2049).inv_freq == tuple(f / 2 for f in frequencies(plain).inv_freq)
    assert frequencies(spec).inv_freq == frequencies(spec, seq_len=8192).inv_freq


def test_seq_len_changes_only_what_depends_on_it():
    for scaling in (None, Linear(factor=2), Yarn(factor=2, original_max_position_embeddings=64)):
        spec = RopeSpec(head_dim=64, scaling=scaling)
        assert spec.at_length(10**6) is spec
        assert frequencies(spec, seq_len=10**6) == frequencies(spec)


def test_partial_rotation_is_a_smaller_head_but_proportional_rope_is_not():
    half = RopeSpec(head_dim=128, partial_rotary_factor=0.5)
    assert frequencies(half) == frequencies(RopeSpec(head_dim=64))
    assert half.rotary_dim == 64
    proportional = replace(half, scaling=Proportional())
    assert proportional.rotary_dim == 128
    whole = frequencies(RopeSpec(head_dim=128)).inv_freq
    assert frequencies(proportional).inv_freq == whole[:32] + (0.0,) * 32


def test_yarns_printed_ramp_by_hand():
    # L 128, b 100, d 4: θ = 1, 0.1, so 20.37 and 2.037 turns. α 1, β 3: γ = 1 and 0.5186.
    made = {"factor": 4, "original_max_position_embeddings": 128, "beta_fast": 3, "ramp": "turns"}
    mix = (128 * 0.1 / math.tau - 1) / 2
    frequency = frequencies(RopeSpec(head_dim=4, rope_theta=100, scaling=Yarn(**made)))
    assert frequency.inv_freq == pytest.approx([1, 0.1 * (mix + (1 - mix) / 4)], rel=1e-14)
    wavelength = frequencies(RopeSpec(head_dim=4, rope_theta=100, scaling=Yarn(**made, blend="wavelength")))
    assert wavelength.wavelengths == pytest.approx(
        [math.tau, math.tau * 10 * (mix + (1 - mix) * 4)], rel=1e-14
    )
