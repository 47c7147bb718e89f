import pytest
import torch

import resrope
from resrope.models import rope_from_config
from resrope.models.extension import extension
from resrope.models.portable import nearest_factors, spelled, spellings

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 1,
    "max_position_embeddings": 8192,
    "rope_theta": 1e5,
}


def made(name, config=LLAMA, **given):
    return extension(rope_from_config(config), name, **given)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("ntk", {"factor": 4}, ("plain", "longrope")),
        ("abf", {"rope_theta": 1e6}, ("plain", "longrope")),
        ("rope", {}, ("plain", "native", "longrope")),
        ("yarn", {"factor": 4}, ("native", "longrope")),
        ("yarn", {"factor": 4, "ramp": "turns"}, ("longrope",)),
        ("resonance-rope", {}, ("longrope",)),
        ("resonance-linear", {"factor": 4}, ("longrope",)),
    ],
)
def test_the_simplest_spelling_comes_first(name, given, wanted):
    assert spellings(made(name, **given), LLAMA) == wanted


@pytest.mark.parametrize("spelling", ["plain", "native", "longrope"])
def test_both_spellings_say_the_same(spelling):
    done = made("rope")
    config = spelled(LLAMA, done, spelling)
    del config["resrope"]
    for half in ("rope_parameters", "rope_scaling"):
        alone = rope_from_config({**config, half: None})
        table = resrope.frequencies(alone.specs["default"])
        wanted = done.tables()["default"]
        assert table.inv_freq == pytest.approx(wanted.inv_freq, rel=1e-6)
    assert config["architectures"] == LLAMA["architectures"]
    assert LLAMA.keys().isdisjoint({"rope_parameters", "resrope"}), "the given config is not changed"


def test_the_profile_of_longrope():
    parameters = spelled(LLAMA, made("resonance-yarn", factor=4), "longrope", mscale=True)["rope_parameters"]
    af = resrope.frequencies(made("resonance-yarn", factor=4).after.specs["default"]).attention_factor
    assert parameters["short_factor"] == parameters["long_factor"]
    assert parameters["original_max_position_embeddings"] == 32768
    assert parameters["factor"] == 1.0
    assert parameters["attention_factor"] == parameters["short_mscale"] == parameters["long_mscale"] == af


def test_the_record_keeps_integer_wavelengths_and_must_fit_the_parameters():
    done = made("resonance-yarn", factor=4)
    config = spelled(LLAMA, done, "longrope")
    table = done.tables()["default"]
    assert tuple(config["resrope"]["wavelengths"]["default"]) == table.periods
    assert rope_from_config(config).specs == done.after.specs
    edited = {**config, "rope_parameters": {**config["rope_parameters"], "attention_factor": 1.0}}
    edited["rope_scaling"] = None
    with pytest.raises(ValueError, match="delete the resrope key to keep the rope parameters"):
        rope_from_config(edited)
    forged = {**config, "resrope": {**config["resrope"], "wavelengths": {"default": [6] * 32}}}
    with pytest.raises(ValueError, match="other wavelengths"):
        rope_from_config(forged)


def test_a_folded_factor_leaves_one_in_the_config():
    done = made("resonance-yarn", factor=4)
    config = spelled(LLAMA, done, "longrope", folded=True)
    assert config["rope_parameters"]["attention_factor"] == 1.0
    assert config["resrope"]["folded_attention_factor"] == pytest.approx(1.1386294361119891)
    assert resrope.frequencies(rope_from_config(config).specs["default"]).attention_factor == 1.0


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_factors_are_nearer_than_the_rounded_quotient(theta, head_dim):
    """Through float32 1 / (factor · θ^x), as every engine has it, more features are right to the last bit."""
    scaling = resrope.Yarn(factor=4, original_max_position_embeddings=8192)
    table = resrope.frequencies(
        resrope.RopeSpec(head_dim=head_dim, rope_theta=theta, scaling=scaling, resonance=True)
    )
    powers = theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    wanted = torch.tensor(table.inv_freq, dtype=torch.float64)

    def ulps(factors):
        got = 1.0 / (factors.float() * powers)
        spacing = torch.nextafter(wanted.float(), torch.tensor(1e9)) - wanted.float()
        return ((got - wanted.float()) / spacing).abs()

    quotient = 1.0 / (
        wanted * torch.tensor([theta ** (2 * j / head_dim) for j in range(head_dim // 2)]).double()
    )
    nearest = torch.tensor(nearest_factors(table, theta, head_dim), dtype=torch.float64)
    assert (ulps(nearest) == 0).sum() > (ulps(quotient) == 0).sum()
    assert (ulps(nearest) == 0).double().mean() > 0.75, "five of six over all these cases"
    assert ulps(nearest).max() <= 2, (
        "just above a power of two no float32 has the reciprocal that is asked for"
    )


def test_a_feature_that_stands_still_has_no_factor():
    table = resrope.frequencies(
        resrope.RopeSpec(head_dim=16, partial_rotary_factor=0.5, scaling=resrope.Proportional())
    )
    with pytest.raises(ValueError, match="frequency of 0"):
        nearest_factors(table, 10000.0, 16)
