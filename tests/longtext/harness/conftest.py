import json

import pytest
import torch
from tests.longtext.harness.tiny import CHAT, QUESTION, STORY

from resrope.longtext import harness
from resrope.longtext.harness_model import HarnessModel
from resrope.longtext.subject import open_subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random llama that knows single words, and ends most answers within a few tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "A", "B", "C", "D", "2", "True", "False", *(f"w{n}" for n in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("model")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT, **special).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=1.0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def subject(folder):
    return open_subject(folder, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """L-Eval's six files, with one document each."""
    folder = tmp_path_factory.mktemp("leval")
    for task, (question, outputs) in QUESTION.items():
        row = {"input": STORY, "instructions": [question] * len(outputs), "outputs": outputs}
        (folder / f"{task}.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _without_environment(monkeypatch):
    """The harness asks pip for everything that is installed, for seconds, whenever it evaluates."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture
def watched(monkeypatch):
    """(inv_freq, prompt ids) of every generation, whose answers end after 8 tokens."""
    seen = []
    theirs = HarnessModel.__base__
    generate = theirs._model_generate

    def watch(self, context, max_length, **kwargs):
        seen.append((self.model.model.rotary_emb.inv_freq.clone(), context))
        return generate(self, context, context.shape[1] + 8, **kwargs)

    monkeypatch.setattr(theirs, "_model_generate", watch)
    return seen


@pytest.fixture
def asked(monkeypatch):
    """Grows with every method that the harness is asked about."""
    seen = []
    real = harness._HARNESS.simple_evaluate
    monkeypatch.setattr(
        harness._HARNESS, "simple_evaluate", lambda **options: seen.append(options) or real(**options)
    )
    return seen
