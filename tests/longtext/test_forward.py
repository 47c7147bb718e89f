import copy
import math

import numpy as np
import pytest
import torch

from resrope.longtext import attention
from resrope.longtext.forward import continuation, token_losses

TOKENS = torch.randint(3, 128, (90,), generator=torch.Generator().manual_seed(1)).tolist()
SLIDING = {"sliding_window": 32}
# With the attention that a subject on a CPU gets: ours where transformers chooses sdpa.
ARCHITECTURES = {
    "llama": {},
    "qwen2": {},
    "gpt_neox": {},
    "deepseek_v3": {},
    "phi3": SLIDING,
    "gemma3_text": SLIDING,
    "gemma2": SLIDING,
    "gpt_oss": SLIDING,
}


def ours(model):
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(attention.register())
    return model


def one_forward(model, tokens):
    """-log p of every token but the first, from the logits of one eager forward, in float64."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0].double()
    return [float(torch.logsumexp(row, 0) - row[to]) for row, to in zip(logits, tokens[1:], strict=False)]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_chunks_are_one_forward(tiny, model_type):
    model = tiny(model_type, initializer_range=0.1, **ARCHITECTURES[model_type])
    wanted = one_forward(model, TOKENS)
    ours(model)
    for chunk in (16, 40, 512):
        made = token_losses(model, TOKENS, chunk=chunk)
        assert made.dtype == np.float32
        assert np.allclose(made, wanted, atol=1e-5, rtol=0), chunk


def test_a_token_at_a_time_is_one_forward(tiny):
    model = tiny("llama")
    wanted = one_forward(model, TOKENS[:20])
    assert np.allclose(token_losses(ours(model), TOKENS[:20], chunk=1), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [16, 30, 512])
def test_later_losses_alone(tiny, chunk):
    model = ours(tiny("llama"))
    whole = token_losses(model, TOKENS)
    for first in (2, 16, 17, 50, 89):
        made = token_losses(model, TOKENS, chunk=chunk, first=first)
        assert np.allclose(made, whole[first - 1 :], atol=1e-5)
    assert len(token_losses(model, TOKENS, first=90)) == len(token_losses(model, TOKENS[:1])) == 0


def test_progress_counts_every_token_read(tiny):
    told = []
    token_losses(tiny("llama"), TOKENS, chunk=40, progress=told.append)
    assert told == [40, 40, 9]
    told.clear()
    continuation(tiny("llama"), TOKENS, 3, chunk=40, progress=told.append)
    assert told == [40, 40, 10]


def test_logits_are_asked_for_only_where_losses_are_wanted(tiny, monkeypatch):
    model, kept = tiny("llama"), []
    model.register_forward_pre_hook(lambda m, a, kw: kept.append(kw["logits_to_keep"]), with_kwargs=True)
    token_losses(model, TOKENS, chunk=40, first=60)
    assert kept == [1, 21, 9]


def test_a_loss_that_is_no_number_names_its_token(tiny):
    model = tiny("llama")
    model.model.embed_tokens.weight.data[TOKENS[50]] = math.nan
    where = min(i for i, token in enumerate(TOKENS) if token == TOKENS[50]) + 1
    with pytest.raises(ValueError, match=f"^the model's loss of token {where} is not a number: .*float32$"):
        token_losses(model, TOKENS, chunk=1)  # within a chunk a kernel may let it reach earlier rows


@pytest.mark.parametrize("chunk", [7, 512])
@pytest.mark.parametrize(("model_type", "changes"), [("llama", {}), ("phi3", SLIDING)])
def test_a_continuation_is_that_of_generate(tiny, model_type, changes, chunk):
    model = tiny(model_type, initializer_range=0.2, **changes)
    wanted = model.generate(
        torch.tensor([TOKENS]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(TOKENS) :].tolist()
    assert len(set(wanted)) > 2
    assert continuation(ours(model), TOKENS, 12, chunk=chunk) == wanted


def test_a_stop_token_ends_a_continuation(tiny):
    model = tiny("llama", initializer_range=0.2)
    free = continuation(model, TOKENS, 8)
    assert len(free) == 8
    stop = free[5]
    assert continuation(model, TOKENS, 8, stop=[stop, 1000]) == free[: free.index(stop)]
    assert continuation(model, TOKENS, 8, stop={free[0]}) == continuation(model, TOKENS, 0) == []
