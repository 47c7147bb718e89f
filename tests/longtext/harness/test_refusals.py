"""Prompts, tasks and tokenizers that the harness cannot use are errors of one line."""

import logging

import pytest
from tests.longtext.harness.tiny import one

from resrope.longtext.candidates import candidates
from resrope.longtext.harness import evaluate


def test_a_prompt_that_does_not_fit_is_an_error(subject, data, watched):
    before = logging.getLogger("lm_eval").level
    metadata = {"leval_data": str(data)}
    with pytest.raises(ValueError, match=r"a prompt has \d+ tokens, of a length of 600 only 88 are left"):
        # The task believes in a larger window than the model has.
        one(
            evaluate(
                subject, candidates([]), ["leval_tpo"], length=600, metadata={**metadata, "max_length": 2048}
            )
        )
    assert not watched
    assert logging.getLogger("lm_eval").level == before


def test_answers_that_leave_no_room_for_a_prompt_are_an_error(subject, data, watched):
    metadata = {"leval_data": str(data), "max_length": 2048}
    message = (
        r"^an answer may have 512 tokens \(max_gen_toks\), of a length of 512 none are left for the prompt$"
    )
    with pytest.raises(ValueError, match=message):
        one(evaluate(subject, candidates([]), ["leval_tpo"], length=512, metadata=metadata))
    assert not watched


def test_letters_after_a_prompt_that_does_not_fit_are_an_error(subject, data):
    metadata = {"leval_data": str(data), "max_length": 2048}
    with pytest.raises(ValueError, match="of a length of 100 only 101 are left"):
        one(evaluate(subject, candidates([]), ["leval_tpo_loglikelihood"], length=100, metadata=metadata))


def test_a_task_that_cannot_load_is_an_error(subject, tmp_path):
    (tmp_path / "broken.yaml").write_text(
        "task: broken\noutput_type: generate_until\ntest_split: test\ncustom_dataset: !function hook.fails\n"
    )
    (tmp_path / "hook.py").write_text("def fails(**_):\n    raise RuntimeError('no\\nnetwork')\n")
    with pytest.raises(ValueError, match="the harness cannot load broken: RuntimeError: no network"):
        one(evaluate(subject, candidates([]), ["broken"], length=512, include_path=tmp_path))


def test_a_tokenizer_without_a_chat_template_is_an_error(subject, data, monkeypatch):
    monkeypatch.setattr(subject.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="its tokenizer has no chat template to apply"):
        one(evaluate(subject, candidates([]), ["leval_tpo"], length=512, apply_chat_template=True))


def test_a_tokenizer_without_an_end_is_an_error(subject, data, monkeypatch):
    monkeypatch.setattr(subject.tokenizer, "_special_tokens_map", {})
    assert subject.tokenizer.eos_token_id is None
    with pytest.raises(ValueError, match=r": its tokenizer names no eos_token"):
        one(evaluate(subject, candidates([]), ["leval_tpo"], length=512, metadata={"leval_data": str(data)}))


def test_a_chat_template_that_cannot_be_used_is_an_error(subject, data, monkeypatch):
    monkeypatch.setattr(subject.tokenizer, "chat_template", "{{ raise_exception('tools only') }}")
    metadata = {"leval_data": str(data)}
    with pytest.raises(ValueError, match=r": its chat template cannot be used: tools only$"):
        one(
            evaluate(
                subject,
                candidates([]),
                ["leval_tpo"],
                length=2048,
                apply_chat_template=True,
                metadata=metadata,
            )
        )
