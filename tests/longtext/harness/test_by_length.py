"""Models whose table depends on the length: every prompt has its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.longtext.harness.tiny import LENGTH, one

from resrope.longtext.candidates import candidates
from resrope.longtext.harness import evaluate
from resrope.longtext.leval.suite import run_suite
from resrope.longtext.store import Records
from resrope.longtext.subject import open_subject

BY_LENGTH = {
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [3.0] * 8},
    "dynamic": {"factor": 2.0},
}


@pytest.fixture(params=list(BY_LENGTH))
def by_length(folder, tmp_path, request):
    """by_length(trained) -> a folder with the model, whose table is another beyond the trained length."""

    def make(trained):
        copy = Path(shutil.copytree(folder, tmp_path / "model"))
        config = json.loads((copy / "config.json").read_text())
        rope = {
            "rope_type": request.param,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": trained,
            **BY_LENGTH[request.param],
        }
        changed = {**config, "max_position_embeddings": trained, "rope_parameters": rope}
        (copy / "config.json").write_text(json.dumps(changed))
        return copy

    return make


def stock(folder, ids):
    """transformers' own model after it has read ``ids``, and its logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model, model(ids).logits


def test_the_model_as_it_is_has_the_table_of_each_prompt(by_length, data, watched, tmp_path, asked):
    """sci_fi asks about the document and, shortly, about the world: 512 tokens are left for an answer."""
    folder = by_length(600)
    subject = open_subject(folder, device="cpu")
    name = "longrope" if "longrope" in str(subject.model.config) else "dynamic-ntk"
    options = {"folder": data, "length": LENGTH, "records": Records(tmp_path / "scores")}
    list(run_suite(subject, candidates(["own"]), ["sci_fi"], **options))
    seen = {ids.shape[1]: inv_freq for inv_freq, ids in watched}
    short, long = sorted(seen)
    assert short + 512 < 600 < LENGTH < long + 512
    for tokens, inv_freq in seen.items():
        theirs, _ = stock(folder, torch.zeros(1, tokens + 512, dtype=torch.long))
        torch.testing.assert_close(inv_freq, theirs.model.rotary_emb.inv_freq)
    assert not torch.allclose(seen[short], seen[long])
    list(run_suite(subject, candidates([name]), ["sci_fi"], **options))
    assert len(asked) == 2, "the method has the table of the length throughout"
    assert torch.equal(watched[-1][0], watched[-2][0])


def test_likelihoods_of_the_model_as_it_is(by_length, data):
    folder = by_length(1000)
    subject = open_subject(folder, device="cpu")
    metadata = {"leval_data": str(data)}
    found = one(
        evaluate(subject, candidates([]), ["leval_tpo_loglikelihood"], length=4096, metadata=metadata)
    )
    (sample, *_) = found.samples["leval_tpo_loglikelihood"]
    ids = subject.tokenizer(sample["arguments"][0][0], return_tensors="pt").input_ids
    assert 900 < ids.shape[1] < 1000
    letters = subject.tokenizer.convert_tokens_to_ids(["A", "B", "C", "D"])
    wanted = stock(folder, ids)[1][0, -1].log_softmax(-1)[letters]
    assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(wanted.tolist(), abs=1e-4)
