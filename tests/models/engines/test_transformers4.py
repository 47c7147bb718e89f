"""The reading of transformers 4 against numbers that 4.57.6 itself gave (its rotary modules on a CPU).

The same comparison over 44 architectures and every rope type, 2640 configs, found no other difference.
"""

from __future__ import annotations

import pytest

from resrope.models.engines.transformers4 import read

SIZES = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
LLAMA = {"model_type": "llama", **SIZES, "rope_theta": 30000.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256, "beta_fast": 16.0}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "short_factor": [1 + j / 64 for j in range(32)],
    "long_factor": [2 + j / 64 for j in range(32)],
}
SHORT = [0.7134385704994202, 0.094526007771492, 0.0064550903625786304, 3.0991683161119e-05]
GOLDEN = {
    "yarn": (
        {**LLAMA, "rope_scaling": YARN},
        [0.7245860695838928, 0.058986444026231766, 0.0009960002498701215, 5.7504094002069905e-06],
        1.2079441541679836,
    ),
    # The length inside rope_scaling is not looked at: ln(2048) below ln(4).
    "longrope, length inside": ({**LLAMA, "rope_scaling": LONGROPE}, SHORT, 1.087114613009218),
    "longrope, length beside": (
        {**LLAMA, "rope_scaling": LONGROPE, "original_max_position_embeddings": 512},
        SHORT,
        1.1055415967851334,
    ),
    "rope_parameters alone": (
        {"model_type": "llama", **SIZES, "rope_parameters": {"rope_theta": 5e5, **YARN}},
        [0.7498942017555237, 0.1333521455526352, 0.01333521492779255, 0.0001333521504420787],
        1.0,
    ),
    "another class default": (
        {"model_type": "cohere", **SIZES, "rope_parameters": {"rope_theta": 5e5}},
        [0.7498942017555237, 0.1333521455526352, 0.01333521492779255, 0.0001333521504420787],
        1.0,
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case):
    config, inv_freq, factor = GOLDEN[case]
    table = read(config).tables["default"]
    assert [table.inv_freq[j] for j in (1, 7, 15, 31)] == pytest.approx(inv_freq, rel=2e-7)
    assert table.attention_factor == factor


def test_boundary_of_longrope():
    inside, beside = (read(GOLDEN[f"longrope, length {place}"][0]) for place in ("inside", "beside"))
    assert (inside.boundary, beside.boundary) == (2048, 512)
    assert inside.beyond is not None
    assert inside.beyond["default"].inv_freq[0] == 0.5


def test_what_is_lost_is_said():
    (sentence,) = read(GOLDEN["rope_parameters alone"][0]).ignored
    assert sentence == "transformers 4 does not read rope_parameters: rope_theta, the scaling there is lost."
    assert read({**LLAMA, "model_type": "nemotron", "rope_scaling": YARN}).ignored == (
        "transformers 4 applies no rope scaling to nemotron models.",
    )


REFUSED = {
    "olmo2": ({"rope_scaling": LONGROPE}, "takes only type (linear or dynamic) and factor for olmo2 models"),
    "phi3": ({"rope_scaling": LONGROPE}, "takes exactly type, short_factor and long_factor for phi3 models"),
    "mistral": ({"rope_scaling": YARN}, "needs an explicit head_dim in the config of a mistral model"),
    "cohere": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 'needs "rope_type" in the rope_scaling'),
    "llama": (
        {"rope_scaling": {**YARN, "rope_type": "resonance_yarn"}},
        "does not know rope_type 'resonance_yarn'",
    ),
    "qwen2": (
        {"rope_scaling": {k: v for k, v in LONGROPE.items() if k != "factor"}},
        "needs factor, or original",
    ),
    "minimax_m2": ({}, "has no minimax_m2 models"),
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_refusals(model_type):
    fields, message = REFUSED[model_type]
    reading = read({**LLAMA, "model_type": model_type, **fields})
    assert message in (reading.refusal or "")
    assert reading.tables == {}
