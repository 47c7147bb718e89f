"""Two derivations of what vLLM and SGLang compute, made apart from each other, must agree."""

import pytest

from resrope.models.engines import ENGINES

_LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + j / 7 for j in range(16)],
    "long_factor": [1.5 + j / 3 for j in range(16)],
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SPELLINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": _YARN,
    "yarn, attention factor": {**_YARN, "attention_factor": 1.25, "truncate": False},
    "yarn, bounds": {**_YARN, "beta_fast": 8.0, "beta_slow": 2.0},
    "longrope": {**_LONG, "factor": 4.0},
    "longrope, mscale": {**_LONG, "short_mscale": 1.2, "long_mscale": 1.2, "attention_factor": 1.2},
}


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "mixtral", "cohere", "glm4"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_both_derivations_agree(engine, spelling, model_type):
    import derive

    parameters = {"rope_theta": 1e4, "partial_rotary_factor": 1.0, **SPELLINGS[spelling]}
    config = {
        "model_type": model_type,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "rope_parameters": parameters,
        "rope_theta": 1e4,
    }
    reading = ENGINES[engine](config)
    if reading.refusal is not None:
        with pytest.raises(ValueError, match="neighbours"):
            derive.tables(engine, config, head_dim=32, last=255)
        return
    (theirs,) = derive.tables(engine, config, head_dim=32, last=255).values()
    (ours,) = (reading.beyond or reading.tables).values()
    assert theirs.inv_freq.tolist() == pytest.approx(ours.inv_freq, rel=3e-7)
    assert theirs.scale == pytest.approx(ours.attention_factor)
