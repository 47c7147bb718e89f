import random

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not decide whether a property holds.
settings.register_profile("resrope", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("resrope")


@pytest.fixture
def stock_rope_types():
    """Afterwards transformers has its own rope types alone: other tests hold its list against ours."""
    from transformers import modeling_rope_utils as rope_utils

    stock = dict(rope_utils.ROPE_INIT_FUNCTIONS)
    yield stock
    rope_utils.ROPE_INIT_FUNCTIONS.clear()
    rope_utils.ROPE_INIT_FUNCTIONS.update(stock)


WORDS = "the king of all ducks swam down a long river and met no one else there but rain".split()


@pytest.fixture(scope="session")
def prose():
    """A text by its seed: random words of a few, which a tiny model learns in some steps."""
    return lambda seed, count=400: " ".join(random.Random(seed).choices(WORDS, k=count))


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A folder with a tiny random llama, trained on 512 tokens, and a tokenizer of single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("letters") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(
        **shape,
        hidden_size=64,
        intermediate_size=64,
        vocab_size=256,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


# Tiny random models of every architecture that a test asks for by its model_type.
COMMON = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LAYERED = {"layer_types": ["sliding_attention", "full_attention"]}
SPECIAL = {
    "mixtral": {"head_dim": 16, "num_local_experts": 2},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, **LAYERED},
    "olmo3": LAYERED,
    "glm4": {"head_dim": 16},
    "gpt_oss": {
        "head_dim": 16,
        "num_local_experts": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
    },
    "ministral3": {"head_dim": 16},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 32,
    },
}


def _qwen2_vl(**changes):
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    text = {**COMMON, "rope_parameters": rope, **changes}
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))


@pytest.fixture(scope="session")
def tiny():
    """tiny(model_type, **config fields) -> a model in evaluation mode, always with the same weights."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def make(model_type, **changes):
        torch.manual_seed(0)
        if model_type == "qwen2_vl":
            return _qwen2_vl(**changes).eval()
        config = CONFIG_MAPPING[model_type](**{**COMMON, **SPECIAL.get(model_type, {}), **changes})
        return AutoModelForCausalLM.from_config(config).eval()

    return make
