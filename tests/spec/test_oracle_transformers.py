"""transformers' own functions as oracle, as they are (float32) and in float64."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.overrides import TorchFunctionMode  # noqa: E402
from transformers import LlamaConfig  # noqa: E402
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: E402

from resrope import (  # noqa: E402
    DynamicNTK,
    Linear,
    Llama3,
    LongRope,
    Proportional,
    RopeSpec,
    Scaling,
    Yarn,
    frequencies,
)

CASES = 50
FLOAT32_ULP = 2.0**-23


class InFloat64(TorchFunctionMode):
    """Runs code that asks for float32 in float64 instead; no other arithmetic changes."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*args, **kwargs)


def common(rng: random.Random) -> dict[str, Any]:
    return {
        "head_dim": rng.choice([32, 48, 64, 80, 96, 128, 192, 256]),
        "rope_theta": rng.choice([1e4, 1e5, 5e5, 1e6, 1e7, round(10 ** rng.uniform(4, 7), 1)]),
        "partial_rotary_factor": rng.choice([1.0, 1.0, 0.25, 0.5, 0.75]),
    }


def length(rng: random.Random) -> int:
    return rng.choice([512, 1024, 2048, 4096, 8192, 32768, rng.randrange(256, 65536)])


def factor(rng: random.Random) -> float:
    return rng.choice([1.0, 2.0, 4.0, 8.0, 32.0, 64.0, round(rng.uniform(1, 64), 3)])


def default(rng: random.Random, dim: int) -> tuple[None, dict[str, Any], None]:
    return None, {}, None


def linear(rng: random.Random, dim: int) -> tuple[Scaling, dict[str, Any], None]:
    given = {"factor": factor(rng)}
    return Linear(**given), given, None


def dynamic(rng: random.Random, dim: int) -> tuple[Scaling, dict[str, Any], int]:
    given, original = {"factor": factor(rng)}, length(rng)
    seq_len = int(original * rng.choice([0.5, 1, 1.7, 4, 32]))
    ours = DynamicNTK(**given, original_max_position_embeddings=original, seq_len=seq_len)
    return ours, {**given, "max_position_embeddings": original}, seq_len


def yarn(rng: random.Random, dim: int) -> tuple[Scaling, dict[str, Any], None]:
    given = {"factor": factor(rng), "original_max_position_embeddings": length(rng)}
    if rng.random() < 0.5:
        given |= {"beta_fast": rng.choice([2.0, 16.0, 32.0, 45.5]), "beta_slow": rng.choice([0.5, 1.0, 1.5])}
    if rng.random() < 0.4:
        given |= {"truncate": rng.random() < 0.3}
    if rng.random() < 0.4:
        given |= {"mscale": rng.choice([0.707, 1.0]), "mscale_all_dim": rng.choice([0.5, 1.0])}
    if rng.random() < 0.2:
        given |= {"attention_factor": rng.uniform(0.5, 2)}
    return Yarn(**given), given, None


def longrope(rng: random.Random, dim: int) -> tuple[Scaling, dict[str, Any], int]:
    original = length(rng)
    given = {
        # Float32 numbers, so that the oracle's own table of factors costs it no rounding.
        "short_factor": [rng.randrange(64, 128) / 64 for _ in range(dim // 2)],
        "long_factor": [rng.randrange(64, 4096) / 64 for _ in range(dim // 2)],
        "factor": factor(rng),
        "original_max_position_embeddings": original,
    }
    if rng.random() < 0.3:
        given |= {"attention_factor": rng.uniform(0.5, 2)}
    seq_len = original * 2 if rng.random() < 0.5 else original
    return LongRope(**given, seq_len=seq_len), given, seq_len


def llama3(rng: random.Random, dim: int) -> tuple[Scaling, dict[str, Any], None]:
    low = rng.choice([1.0, 2.0, 0.125])
    given = {
        "factor": factor(rng),
        "original_max_position_embeddings": length(rng),
        "low_freq_factor": low,
        "high_freq_factor": low * rng.choice([4.0, 1.5, 8.0]),
    }
    return Llama3(**given), given, None


def proportional(rng: random.Random, dim: int) -> tuple[Scaling, dict[str, Any], None]:
    given = {"factor": factor(rng)} if rng.random() < 0.5 else {}
    return Proportional(**given), given, None


KINDS = {f.__name__: f for f in (default, linear, dynamic, yarn, longrope, llama3, proportional)}


def case(kind: str, seed: int) -> tuple[RopeSpec, LlamaConfig, int | None]:
    """Our spec, transformers' config and the length, from one seed."""
    rng = random.Random(f"{kind} {seed}")
    sizes = common(rng)
    if kind == "default":  # Llama's own default rotates every dimension
        sizes["partial_rotary_factor"] = 1.0
    scaling, given, seq_len = KINDS[kind](rng, int(sizes["head_dim"] * sizes["partial_rotary_factor"]))
    spec = RopeSpec(**sizes, scaling=scaling)
    maximum = given.pop("max_position_embeddings", 10**6)
    parameters = {"rope_type": kind, **given, **{k: sizes[k] for k in sizes if k != "head_dim"}}
    config = LlamaConfig(
        head_dim=sizes["head_dim"], max_position_embeddings=maximum, rope_parameters=parameters
    )
    return spec, config, seq_len


def theirs(kind: str, config: LlamaConfig, seq_len: int | None) -> tuple[list[float], float]:
    if kind == "default":
        table, attention_factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        table, attention_factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)
    return table.tolist(), attention_factor


def relative(ours: float, oracle: float) -> float:
    return abs(ours - oracle) / oracle if oracle else abs(ours)


def test_every_rope_type_of_transformers_is_covered():
    assert set(ROPE_INIT_FUNCTIONS) == set(KINDS) - {"default"}
    assert len(KINDS) * CASES >= 200


@pytest.mark.parametrize("kind", KINDS)
def test_float64_oracle_agrees_and_rounds_to_the_same_float32(kind):
    for seed in range(CASES):
        spec, config, seq_len = case(kind, seed)
        with InFloat64():
            oracle, attention_factor = theirs(kind, config, seq_len)
        table = frequencies(spec)
        assert len(table.inv_freq) == len(oracle)
        assert max(map(relative, table.inv_freq, oracle)) < 1e-12, spec
        rounded = [torch.tensor(t, dtype=torch.float64).float() for t in (table.inv_freq, oracle)]
        assert torch.equal(*rounded), spec
        assert table.attention_factor == pytest.approx(attention_factor, rel=1e-15)


def float32_tolerance(spec: RopeSpec) -> float:
    """How far transformers' float32 arithmetic may lie from the exact table, relatively.

    The exponent x = 2j/d < 1 is off by half an ulp, which b^x multiplies by ln(b); b itself, pow, and
    each division or product (1/x, by the factor) round by an ulp or less. YaRN and Llama 3 mix two
    frequencies that differ by the factor s with a weight off by an ulp or so: YaRN's ramp is exact to
    an ulp, Llama 3's weight (t - l)/(h - l) inherits the error of t <= h, times h/(h - l).
    """
    scaling, log_base = spec.scaling, math.log(spec.rope_theta)
    if isinstance(scaling, DynamicNTK):  # the base has grown: b^(-(d-2)/d) is the last frequency
        d = spec.rotary_dim
        log_base = -math.log(frequencies(spec).inv_freq[-1]) * d / (d - 2)
    tolerance = (0.5 * log_base + 4) * FLOAT32_ULP
    match scaling:
        case Yarn(factor=s):
            return tolerance + s * FLOAT32_ULP
        case Llama3(factor=s, low_freq_factor=low, high_freq_factor=high):
            return tolerance * (1 + s * high / (high - low))
    return tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_stock_float32_lies_within_its_own_rounding(kind):
    for seed in range(CASES):
        spec, config, seq_len = case(kind, seed)
        oracle, attention_factor = theirs(kind, config, seq_len)
        table = frequencies(spec)
        worst = max(map(relative, table.inv_freq, oracle))
        assert worst <= float32_tolerance(spec), (worst / FLOAT32_ULP, spec)
        assert table.attention_factor == pytest.approx(attention_factor, rel=1e-15)


# Lengths so short, or a base so small, that YaRN's two bounds meet at either end or change places.
@pytest.mark.parametrize(("length", "theta"), [(1, 1e4), (6, 1e4), (7, 1e4), (64, 1e4), (32768, 1.5)])
def test_yarn_where_the_bounds_of_the_ramp_meet(length, theta):
    given = {"factor": 4.0, "original_max_position_embeddings": length}
    config = LlamaConfig(
        head_dim=64,
        max_position_embeddings=4 * length,
        rope_parameters={"rope_type": "yarn", "rope_theta": theta, **given},
    )
    with InFloat64():
        oracle, _ = theirs("yarn", config, None)
    ours = frequencies(RopeSpec(head_dim=64, rope_theta=theta, scaling=Yarn(**given)))
    assert ours.inv_freq == pytest.approx(oracle, rel=1e-12)


def test_stock_float32_is_not_exact_so_that_the_tolerance_is_needed():
    spec, config, seq_len = case("default", 0)
    oracle, _ = theirs("default", config, seq_len)
    assert max(map(relative, frequencies(spec).inv_freq, oracle)) > FLOAT32_ULP / 4


def test_longrope_without_a_length_serves_the_length_it_promises():
    spec, config, _ = case("longrope", 1)
    assert spec.scaling.factor > 1
    spec = RopeSpec.from_dict({**spec.to_dict(), "scaling": {**spec.to_dict()["scaling"], "seq_len": None}})
    with InFloat64():
        oracle, _ = theirs("longrope", config, spec.scaling.original_max_position_embeddings + 1)
    assert frequencies(spec).inv_freq == pytest.approx(oracle, rel=1e-12)
