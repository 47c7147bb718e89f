import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not decide whether a property holds.
settings.register_profile("resrope", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("resrope")


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
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
