"""What transformers assumes where a config says nothing, by model_type.

Configs leave out what equals their class's default, and those differ from class to class; only the
model types named here have one. A test compares every entry with transformers' own classes.
"""

from __future__ import annotations

_THETA_NAMES = {
    10_000.0: (
        "afmoe arcee aria_text bamba chameleon cohere2 dbrx deepseek_v2 deepseek_v3 deepseek_v32 "
        "diffllama doge dots1 eurobert exaone4 falcon falcon_h1 gemma gemma2 glm glm4 glm4_moe glm4v_text "
        "glm4v_moe_text glm_moe_dsa gpt_neox gpt_neox_japanese granite granitemoe granitemoehybrid "
        "granitemoeshared hunyuan_v1_dense hunyuan_v1_moe jetmoe llama ministral mistral moshi nemotron "
        "olmo olmo2 olmoe persimmon phi phi3 phi4_multimodal qwen2 qwen2_moe qwen3 qwen3_5_text "
        "qwen3_5_moe_text qwen3_moe qwen3_next recurrent_gemma seed_oss stablelm starcoder2 vaultgemma "
        "zamba2"
    ),
    100_000.0: "helium",
    160_000.0: "gte",
    500_000.0: (
        "bitnet blt cohere csm ernie4_5 ernie4_5_moe flex_olmo llama4_text mllama_text_model qwen3_vl_text "
        "qwen3_vl_moe_text"
    ),
    1_000_000.0: (
        "emu3_text_model lfm2 lfm2_moe minimax mixtral phimoe qwen2_5_omni_text qwen2_5_vl_text "
        "qwen2_vl_text solar_open"
    ),
    2_000_000.0: "smollm3",
    5_000_000.0: "minimax_m2",
    10_000_000.0: "longcat_flash",
}
ROPE_THETA = {name: theta for theta, names in _THETA_NAMES.items() for name in names.split()}
# These classes have no field for it: GPT-J and CodeGen rotate with base 10000 whatever the config says.
ROPE_THETA |= {"gptj": 10_000.0, "codegen": 10_000.0}

_PARTIAL_NAMES = {
    0.25: "gpt_neox qwen3_5_text qwen3_5_moe_text qwen3_next stablelm",
    0.5: "bamba glm glm4 glm4_moe glm4v_moe_text nemotron persimmon phi recurrent_gemma",
}
PARTIAL_ROTARY_FACTOR = {name: share for share, names in _PARTIAL_NAMES.items() for name in names.split()}

_HEAD_DIM_NAMES = {
    64: "deepseek_v32 glm_moe_dsa longcat_flash",
    128: "afmoe ernie4_5 glm glm4 helium llama4_text minimax_m2 qwen3 qwen3_vl_text seed_oss solar_open",
    256: (
        "gemma gemma2 gemma3_text gemma3n_text gemma4_text qwen3_5_text qwen3_5_moe_text qwen3_next "
        "vaultgemma"
    ),
}
HEAD_DIM = {name: size for size, names in _HEAD_DIM_NAMES.items() for name in names.split()}

# Bases of (full attention, sliding attention) for models with one RoPE per layer type; scaling concerns
# the first only. None: the sliding layers have the base of the others.
LAYER_THETA: dict[str, tuple[float, float | None]] = {
    "gemma3_text": (1_000_000.0, 10_000.0),
    "gemma3n_text": (1_000_000.0, 10_000.0),
    "modernbert": (160_000.0, 10_000.0),
    "modernbert-decoder": (160_000.0, 10_000.0),
    "olmo3": (500_000.0, None),
}
