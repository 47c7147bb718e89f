from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from resrope.export import fold
from resrope.export.weights import Place
from resrope.models import rope_from_config

FACTOR = 1.2
SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FALCON = {"num_kv_heads": 2, "num_ln_in_parallel_attn": 2}
HEADS = {"head_dim": 32}
# model_type, what makes it this architecture's harder case
CASES = {
    "llama": {},
    "llama-bias": {"attention_bias": True},
    "llama-head_dim": HEADS,
    "mistral": {},
    "mixtral": {"head_dim": 16, "num_local_experts": 2},
    "qwen2": {},
    "qwen3": HEADS,
    "gemma": HEADS,
    "gemma2": {**HEADS, "sliding_window": 8},
    "gemma3_text": {**HEADS, "sliding_window": 8, "sliding_window_pattern": 2},
    "phi": {"partial_rotary_factor": 0.5},
    "phi-norm": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "phi3": {},
    "phi3-partial": {"partial_rotary_factor": 0.5},
    "gpt_neox": {"rotary_pct": 0.25},
    "gpt_neox-whole": {"rotary_pct": 1.0},
    "stablelm": {"partial_rotary_factor": 0.25, "use_qkv_bias": True},
    "stablelm-norm": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "cohere": {},
    "cohere-norm": {"use_qk_norm": True},
    "cohere2": {"sliding_window": 8},
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 4},
    "glm4": {"head_dim": 16, "attention_bias": True},
    "granite": {},
    "starcoder2": {},
    "smollm3": {},
    "falcon": {"new_decoder_architecture": True, **FALCON},
    "falcon-multi_query": {"multi_query": True, "bias": True},
    "falcon-plain": {"multi_query": False},
}


def built(case):
    """A small random model of float32 whose norms and biases are random, too."""
    torch.manual_seed(0)
    model_type = case.partition("-")[0]
    config = AutoConfig.for_model(model_type, **{**SMALL, **CASES[case]})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    return model


def scalings(model):
    """Every attribute of the rotary module that multiplies cos and sin, without the sliding layers'."""
    rotary = next(m for name, m in model.named_modules() if name.endswith("rotary_emb"))
    names = [n for n in vars(rotary) if n.endswith("attention_scaling") and "sliding" not in n]
    assert names
    return rotary, names


@torch.no_grad()
def logits(model):
    return model(torch.arange(3, 43)[None]).logits


def factors(model):
    specs = rope_from_config(model.config.to_dict()).specs
    return {layer: FACTOR for layer in specs if "sliding" not in layer}


def places(state):
    """As if a checkpoint held ``state``."""
    dtypes = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}
    return {
        name: Place(shard=Path("none"), dtype=dtypes[t.dtype], shape=tuple(t.shape), start=0, end=0)
        for name, t in state.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_factor_in_the_weights_gives_the_scores_of_the_factor_on_cos_and_sin(case):
    model = built(case)
    plain = logits(model)
    rotary, names = scalings(model)
    for name in names:
        setattr(rotary, name, FACTOR)
    wanted = logits(model)
    for name in names:
        setattr(rotary, name, 1.0)
    state = model.state_dict()
    for name, edit in fold.edits(model.config.to_dict(), places(state), factors(model)).items():
        state[name].copy_(edit(state[name]))
    got = logits(model)
    effect = float((wanted - plain).abs().max())
    assert effect > 1e-3
    assert float((got - wanted).abs().max()) <= 3e-4 * effect


def test_every_architecture_is_measured():
    assert {case.partition("-")[0] for case in CASES} == set(fold.QUERIES)


LLAMA = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
QUERY = "model.layers.{}.self_attn.q_proj.weight"
STATE = {QUERY.format(i): torch.full((8, 8), 1.0 + i) for i in range(2)}


def test_factor_1_changes_nothing():
    assert fold.edits(LLAMA, places(STATE), {"default": 1.0}) == {}


def test_scores_take_the_square_and_only_rotated_rows_change():
    config = {**LLAMA, "partial_rotary_factor": 0.5}
    found = fold.edits(config, places(STATE), {"default": 1.5})
    got = found[QUERY.format(1)](STATE[QUERY.format(1)])
    assert got[:, 0].tolist() == [4.5, 4.5, 2.0, 2.0, 4.5, 4.5, 2.0, 2.0]


def test_bfloat16_is_rounded_once():
    weight = torch.randn(8, 8).bfloat16()
    state = dict.fromkeys(STATE, weight)
    got = fold.edits(LLAMA, places(state), {"default": 1.1})[QUERY.format(0)](weight)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, (weight.double() * 1.1**2).bfloat16())


def test_towers_beside_the_language_model_stay():
    config = {"model_type": "llava", "text_config": LLAMA}
    tower = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    state = {f"language_model.{name}": t for name, t in STATE.items()} | {tower: torch.ones(8, 8)}
    found = fold.edits(config, places(state), {"default": 1.5})
    assert sorted(found) == sorted(f"language_model.{name}" for name in STATE)


@pytest.mark.parametrize(
    ("config", "state", "message"),
    [
        ({**LLAMA, "model_type": "gpt_oss"}, STATE, "folding is verified for cohere, .*, got gpt_oss"),
        ({**LLAMA, "quantization_config": {"bits": 4}}, STATE, "the weights are quantised"),
        ({**LLAMA, "num_hidden_layers": 3}, STATE, "holds no queries of layer 2 under a known name"),
        (LLAMA, {n: t.byte() for n, t in STATE.items()}, "q_proj.weight is U8, one of F64, F32, F16, BF16"),
        (LLAMA, {n: t[:6] for n, t in STATE.items()}, r"must have 2 · 1 · 4 rows, got 6"),
    ],
)
def test_what_cannot_be_folded_is_refused(config, state, message):
    with pytest.raises(ValueError, match=message) as error:
        fold.edits(config, places(state), {"default": 1.5})
    assert "\n" not in str(error.value)
