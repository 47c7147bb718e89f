"""What the model reads, in the harness and in lm_eval alone."""

import pytest
import torch
from tests.longtext.harness.tiny import LENGTH, QUESTION, STORY, one

from resrope.longtext.candidates import candidates
from resrope.longtext.harness import evaluate
from resrope.longtext.leval import TASK_FOLDER
from resrope.longtext.leval.prompts import shortened, system_prompt
from resrope.longtext.leval.suite import run_suite


def plain(tasks, metadata):
    """The tasks as lm_eval itself loads them, with --include_path and --metadata."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASK_FOLDER), include_defaults=False, metadata=metadata)
    return manager.load(tasks)


def test_the_model_reads_the_whole_prompt(subject, data, watched):
    suite = run_suite(subject, candidates([]), ["tpo"], folder=data, length=LENGTH, limit=1)
    assert one(suite).mean is None
    words = subject.tokenizer.convert_ids_to_tokens(watched[0][1][0])
    cut = shortened("tpo", STORY, LENGTH - 512, lambda text: len(text.split()))
    assert len(words) == len((system_prompt("tpo") + cut).split()) + 22
    assert [w for w in words if w.startswith("w")] == cut.split()


def test_a_template_without_system_turns_gets_the_system_prompt_all_the_same(subject, data, watched):
    run = run_suite(
        subject, candidates([]), ["gsm100"], folder=data, length=LENGTH, apply_chat_template=True, limit=1
    )
    one(run)
    text = subject.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert text == "<user>x<assistant>"
    system = len(system_prompt("gsm100").split())
    assert len(watched[0][1][0]) == system + 512 + 3


def test_likelihoods_of_the_letters(subject, data):
    found = one(
        evaluate(
            subject,
            candidates([]),
            ["leval_loglikelihood"],
            length=2048,
            metadata={"leval_data": str(data)},
        )
    )
    accuracy = {
        task: found.scores[f"leval_{task}_loglikelihood"]["acc"] for task in ("coursera", "quality", "tpo")
    }
    assert len(found.samples["leval_coursera_loglikelihood"]) == 1  # of AB and C, only C
    assert found.scores["leval_loglikelihood"]["acc"] == pytest.approx(sum(accuracy.values()) / 3)
    (sample,) = found.samples["leval_coursera_loglikelihood"]
    context = sample["arguments"][0][0]
    ids = subject.tokenizer(context, return_tensors="pt").input_ids
    letters = subject.tokenizer.convert_tokens_to_ids(["A", "B", "C", "D"])
    with torch.no_grad():
        logits = subject.model(ids).logits[0, -1].log_softmax(-1)[letters]
    assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(logits.tolist(), abs=1e-4)
    assert accuracy["coursera"] == float(logits.argmax() == 2)


def test_lm_eval_itself_loads_the_tasks(folder, data, monkeypatch):
    monkeypatch.setenv("LEVAL_DATA", str(data))
    loaded = plain(["leval", "leval_tpo_loglikelihood"], {"pretrained": str(folder), "max_length": 2048})
    assert set(loaded["tasks"]) == {f"leval_{task}" for task in QUESTION} | {"leval_tpo_loglikelihood"}
    task = loaded["tasks"]["leval_tpo"]
    assert len(task.test_docs()) == 3
    assert task.config.generation_kwargs == {"do_sample": False, "max_gen_toks": 512, "until": []}
    context = task.fewshot_context(task.test_docs()[0], 0)
    assert context.startswith(system_prompt("tpo") + "Document is as follows. w0 w1")
    assert context.endswith("explanation \nAnswer:")
    world = loaded["tasks"]["leval_sci_fi"].test_docs()[1]
    assert loaded["tasks"]["leval_sci_fi"].fewshot_context(world, 0) == world["prompt"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "--metadata must tell leval_length, in tokens, or --model_args max_length"),
        ({"leval_length": 2048, "max_length": 2048}, "max_length must be at least leval_length"),
        ({"leval_length": 2048, "pretrained": None}, "name a tokenizer"),
    ],
)
def test_what_lm_eval_was_not_told_is_named(folder, data, metadata, message):
    with pytest.raises(ValueError, match=message):
        plain(["leval_tpo"], {"pretrained": str(folder), "leval_data": str(data), **metadata})
