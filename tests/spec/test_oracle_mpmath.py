"""Every formula derived again in 50-digit arithmetic."""

from __future__ import annotations

import random
from functools import partial

import pytest
from mpmath import mp, mpf

from resrope import (
    AdjustedBase,
    DynamicNTK,
    Linear,
    Llama3,
    LongRope,
    NTKAware,
    Proportional,
    RopeSpec,
    Scaling,
    Yarn,
    frequencies,
)
from resrope.spec.phase import _TWO_PI, TURN, turns_per_token

Numbers = list[mpf]
DRAWS = 12


@pytest.fixture(autouse=True)
def _fifty_digits():
    with mp.workdps(50):
        yield


def plain(d: int, base: mpf) -> Numbers:
    return [mpf(1) / mp.root(mpf(base), d) ** (2 * j) for j in range(d // 2)]


def clamped(x: mpf) -> mpf:
    return min(max(x, mpf(0)), mpf(1))


def mixed(f: mpf, keep: mpf, scaling: Yarn | Llama3, blend: str) -> mpf:
    wavelength, s = 2 * mp.pi / f, mpf(scaling.factor)
    if blend == "wavelength":
        return 2 * mp.pi / ((1 - keep) * s * wavelength + keep * wavelength)
    return keep * f + (1 - keep) * f / s


def yarn(scaling: Yarn, d: int, base: mpf) -> Numbers:
    table, length = plain(d, base), mpf(scaling.original_max_position_embeddings)
    fast, slow = mpf(scaling.beta_fast), mpf(scaling.beta_slow)
    if scaling.ramp == "turns":
        keep = [clamped((length / (2 * mp.pi / f) - slow) / (fast - slow)) for f in table]
    else:
        # Feature j turns t times in L tokens when L·b^(-2j/d) = 2π·t.
        first, last = (mpf(d) / 2 * mp.log(length / (2 * mp.pi * t), mpf(base)) for t in (fast, slow))
        if scaling.truncate:
            first, last = mp.floor(first), mp.ceil(last)
        first, last = max(first, mpf(0)), min(last, mpf(d - 1))
        last = last + mpf("0.001") if first == last else last
        keep = [1 - clamped((j - first) / (last - first)) for j in range(len(table))]
    return [mixed(f, k, scaling, scaling.blend) for f, k in zip(table, keep, strict=True)]


def llama3(scaling: Llama3, d: int, base: mpf) -> Numbers:
    length = mpf(scaling.original_max_position_embeddings)
    low, high = mpf(scaling.low_freq_factor), mpf(scaling.high_freq_factor)
    out = []
    for f in plain(d, base):
        wavelength = 2 * mp.pi / f
        if wavelength < length / high:
            out.append(f)
        elif wavelength > length / low:
            out.append(f / mpf(scaling.factor))
        else:
            out.append(mixed(f, (length / wavelength - low) / (high - low), scaling, "frequency"))
    return out


def oracle(spec: RopeSpec) -> Numbers:
    s, d, base = spec.scaling, spec.rotary_dim, mpf(spec.rope_theta)
    power = mpf(d) / (d - 2)
    match s:
        case None:
            return plain(d, base)
        case Linear():
            return [f / mpf(s.factor) for f in plain(d, base)]
        case AdjustedBase():
            return plain(d, mpf(s.rope_theta))
        case NTKAware():
            return plain(d, base * (mpf(s.factor) if s.paper_base else mpf(s.factor) ** power))
        case DynamicNTK():
            ratio = max(mpf(1), mpf(s.seq_len) / s.original_max_position_embeddings)
            return plain(d, base * (mpf(s.factor) * ratio - mpf(s.factor) + 1) ** power)
        case Yarn():
            return yarn(s, d, base)
        case Llama3():
            return llama3(s, d, base)
        case LongRope():
            factors = s.long_factor if s.seq_len > s.original_max_position_embeddings else s.short_factor
            return [f / mpf(x) for f, x in zip(plain(d, base), factors, strict=True)]
        case Proportional():
            turning = int(mpf(d) * mpf(spec.partial_rotary_factor) / 2)
            return [f / mpf(s.factor) if j < turning else mpf(0) for j, f in enumerate(plain(d, base))]


def longrope(rng: random.Random, d: int) -> LongRope:
    short, long = ([rng.uniform(1, top) for _ in range(d // 2)] for top in (2, 64))
    length = rng.randrange(256, 65536)
    return LongRope(
        short_factor=tuple(short),
        long_factor=tuple(long),
        factor=factor(rng),
        original_max_position_embeddings=length,
        seq_len=rng.choice([length, length + 1]),
    )


def factor(rng: random.Random) -> float:
    return rng.choice([1.0, 2.0, 4.0, 64.0, rng.uniform(1, 64)])


def any_yarn(rng: random.Random, d: int, **chosen: object) -> Yarn:
    return Yarn(
        factor=factor(rng),
        original_max_position_embeddings=rng.randrange(64, 65536),
        beta_fast=rng.choice([2.0, 32.0]),
        **chosen,
    )


def dynamic(rng: random.Random, d: int) -> DynamicNTK:
    length = rng.randrange(64, 65536)
    n = rng.choice([length // 2, length, 3 * length])
    return DynamicNTK(factor=factor(rng), original_max_position_embeddings=length, seq_len=n)


MAKERS = {
    "rope": lambda rng, d: None,
    "linear": lambda rng, d: Linear(factor=factor(rng)),
    "abf": lambda rng, d: AdjustedBase(rope_theta=rng.uniform(1e4, 1e7)),
    "ntk": lambda rng, d: NTKAware(factor=factor(rng)),
    "ntk, paper's base": lambda rng, d: NTKAware(factor=factor(rng), paper_base=True),
    "dynamic-ntk": dynamic,
    "llama3": lambda rng, d: Llama3(
        factor=factor(rng), original_max_position_embeddings=rng.randrange(256, 65536)
    ),
    "longrope": longrope,
    "proportional": lambda rng, d: Proportional(factor=factor(rng)),
} | {
    f"yarn {ramp} {blend} {truncate}": partial(any_yarn, ramp=ramp, blend=blend, truncate=truncate)
    for ramp in ("index", "turns")
    for blend in ("frequency", "wavelength")
    for truncate in (True, False)
}


def specs(name: str) -> list[RopeSpec]:
    rng = random.Random(name)
    out = []
    for _ in range(DRAWS):
        head_dim, share = rng.choice([32, 64, 80, 128, 256]), rng.choice([1.0, 0.5, 0.25])
        d = int(head_dim * share)
        scaling: Scaling | None = MAKERS[name](rng, d)
        theta = rng.choice([1e4, 1e5, 5e5, 1e6, 1e7, rng.uniform(1e4, 1e7)])
        out.append(
            RopeSpec(head_dim=head_dim, rope_theta=theta, partial_rotary_factor=share, scaling=scaling)
        )
    return out


# The float64 exponent and power cost about ln(1e7 · 64²)/2 ulp; a ramp multiplies that by up to the factor.
def tolerance(spec: RopeSpec) -> mpf:
    ramped = isinstance(spec.scaling, Yarn | Llama3)
    return mpf(10) ** -14 * (spec.scaling.factor if ramped else 1)


@pytest.mark.parametrize("name", MAKERS)
def test_frequencies(name):
    for spec in specs(name):
        expected = oracle(spec)
        got = frequencies(spec).inv_freq
        assert len(got) == len(expected)
        for ours, exact in zip(got, expected, strict=True):
            assert abs(ours - exact) <= tolerance(spec) * exact, spec


@pytest.mark.parametrize("name", MAKERS)
def test_periods_are_the_nearest_integers_of_the_exact_wavelengths(name):
    for spec in specs(name):
        exact = [int(mp.nint(2 * mp.pi / f)) if f else 1 for f in oracle(spec)]
        resonant = RopeSpec.from_dict({**spec.to_dict(), "resonance": True})
        assert list(frequencies(resonant).periods) == exact, spec


@pytest.mark.parametrize("s", [1, 2, 8, 37.5, 64])
def test_yarn_attention_factor(s):
    def temperature(mscale: float) -> mpf:
        return mpf(mscale) / 10 * mp.log(s) + 1

    def ours(**given: float) -> float:
        scaling = Yarn(factor=s, original_max_position_embeddings=4096, **given)
        return frequencies(RopeSpec(head_dim=64, scaling=scaling)).attention_factor

    assert abs(ours() - temperature(1)) < 1e-15
    assert abs(ours(mscale=0.707, mscale_all_dim=1.5) - temperature(0.707) / temperature(1.5)) < 1e-15
    assert abs(ours(mscale=0.707) - temperature(1)) < 1e-15  # one of the two alone has no effect
    assert ours(attention_factor=1.25, mscale=0.5, mscale_all_dim=1.0) == 1.25


def test_longrope_attention_factor():
    for s, length in ((1, 4096), (2, 4096), (32, 4096), (12.5, 2)):
        ones = (1.0,) * 32
        scaling = LongRope(
            short_factor=ones, long_factor=ones, factor=s, original_max_position_embeddings=length
        )
        exact = mp.sqrt(1 + mp.log(s) / mp.log(length))
        assert abs(frequencies(RopeSpec(head_dim=64, scaling=scaling)).attention_factor - exact) < 1e-15


def test_two_pi_has_the_digits_it_is_written_with():
    with mp.workdps(80):
        assert abs(mpf(_TWO_PI.numerator) / _TWO_PI.denominator - 2 * mp.pi) < mpf(10) ** -59


def test_turns_per_token_is_the_nearest_fraction_of_a_turn():
    rng = random.Random(0)
    values = [0.0, 1.0, 0.5, 3.141592653589793, 6.283185307179586, 100.0, 2.0**-60, 1e-9]
    values += [10 ** rng.uniform(-12, 2) for _ in range(300)]
    for f in values:
        exact = mpf(f) * TURN / (2 * mp.pi)
        turns = turns_per_token(f)
        assert 0 <= turns < TURN
        assert turns == int(mp.nint(exact)) % TURN


def test_phase_error_stays_below_the_stated_bound():
    for spec in specs("rope"):
        for f in frequencies(spec).inv_freq:
            m = 2**31 - 1
            turns = mpf(m * turns_per_token(f) % TURN) / TURN
            exact = mp.frac(m * mpf(f) / (2 * mp.pi))
            error = abs(turns - exact)
            assert min(error, 1 - error) * 2 * mp.pi < mpf("4e-10")
