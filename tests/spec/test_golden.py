"""Numbers that the paper, or arithmetic by hand, fixes (arXiv 2403.00071)."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from resrope import RopeSpec, Yarn, frequencies, method, methods

LLAMA = RopeSpec(head_dim=128, rope_theta=10000.0)
POSGEN = RopeSpec(head_dim=64, rope_theta=10000.0)


def test_llama_wavelengths_run_from_one_turn_in_2_pi_tokens_to_54410():
    wavelengths = frequencies(LLAMA).wavelengths
    assert wavelengths[0] == 2 * math.pi
    assert round(wavelengths[-1], 2) == 54410.14
    assert len(wavelengths) == 64


def test_llama_2_has_46_of_64_features_shorter_than_its_4096_tokens():
    assert sum(w < 4096 for w in frequencies(LLAMA).wavelengths) == 46


@pytest.mark.parametrize(("spec", "features", "short"), [(POSGEN, 32, 9), (LLAMA, 64, 17)])
def test_features_shorter_than_posgens_64_tokens(spec, features, short):
    wavelengths = frequencies(spec).wavelengths
    assert (len(wavelengths), sum(w < 64 for w in wavelengths)) == (features, short)


def test_least_common_multiple_of_llamas_rounded_pre_critical_wavelengths():
    periods = [round(w) for w in frequencies(LLAMA).wavelengths]
    assert f"{math.lcm(*(p for p in periods if p < 4096)):.3e}" == "7.058e+51"
    assert frequencies(RopeSpec(head_dim=128, resonance=True)).periods == tuple(periods)


def test_first_periods_by_hand():
    # 2π·10000^(j/32): 6.28, 8.38, 11.17, 14.90, 19.87, 26.50, 35.33, 47.12, 62.83
    resonant = frequencies(RopeSpec(head_dim=64, resonance=True))
    assert resonant.periods[:9] == (6, 8, 11, 15, 20, 26, 35, 47, 63)
    assert resonant.inv_freq[0] == math.tau / 6


def test_yarn_of_the_papers_large_model_by_hand():
    # d 128, b 10000, L 4096: 32 turns at index 64·ln(4096/(64π))/ln(10000) = 20.9, one at 45.03.
    spec = RopeSpec(head_dim=128, scaling=Yarn(factor=8, original_max_position_embeddings=4096))
    plain, table = frequencies(LLAMA), frequencies(spec)
    ratio = [a / b for a, b in zip(plain.inv_freq, table.inv_freq, strict=True)]
    assert ratio[:21] == [1.0] * 21
    assert ratio[21] > 1
    assert ratio[45] < 8
    assert ratio[46:] == pytest.approx([8.0] * 18, rel=1e-15)
    assert table.attention_factor == pytest.approx(1 + 0.1 * math.log(8))


def test_every_method_has_a_resonant_twin_and_its_own_name():
    assert set(methods()) >= {"rope", "linear", "abf", "ntk", "dynamic-ntk", "yarn", "llama3", "longrope"}
    assert {f"resonance-{name}" for name in methods() if not name.startswith("resonance-")} <= set(methods())
    made = method("resonance-yarn", factor=8, original_max_position_embeddings=4096)
    assert made.name == "resonance-yarn"
    assert made.spec(head_dim=128) == RopeSpec(
        head_dim=128, scaling=Yarn(factor=8, original_max_position_embeddings=4096), resonance=True
    )


def run_fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_neither_torch_nor_numpy():
    code = "import resrope, sys; print(sorted({'torch', 'numpy', 'typer'} & set(sys.modules)))"
    assert run_fresh(code).strip() == "[]"


def test_import_takes_less_than_a_tenth_of_a_second():
    """Of a processor: a busy machine must not decide."""
    code = "import time; t = time.process_time(); import resrope; print(time.process_time() - t)"
    assert min(float(run_fresh(code)) for _ in range(5)) < 0.1
