import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from resrope.longtext import retrieval
from resrope.longtext.candidates import candidates
from resrope.longtext.passkey import FILLER, ROOM, build, encoder, is_right, sentences
from resrope.longtext.retrieval import Cell, Plan, Retrieval, measure
from resrope.longtext.store import Records
from resrope.longtext.subject import Subject
from resrope.provenance import provenance

NEEDLE = re.compile(r"The pass key is (\d{5})\. Keep it in mind: \1 is the pass key\. ?")


class Tokens:
    """A tokenizer of single characters, with a token before every text."""

    bos, eos_token_id, chat_template = 1, 2, None

    def __call__(self, text, *, verbose, add_special_tokens=True):
        assert not verbose
        first = [self.bos] if add_special_tokens else []
        return type("Encoding", (), {"input_ids": first + [ord(c) for c in text]})

    def decode(self, ids, skip_special_tokens=False):
        assert skip_special_tokens
        return "".join(map(chr, ids))


class Chatty(Tokens):
    chat_template = "{{ messages }}"

    def apply_chat_template(self, turns, *, tokenize, add_generation_prompt, continue_final_message):
        assert (tokenize, add_generation_prompt, continue_final_message) == (False, True, False)
        return "".join(f"<{t['role']}>{t['content']}</{t['role']}>" for t in turns) + "<assistant>"


def characters(asked, begun):
    return [ord(c) for c in f"{asked} {begun}"]


def text_of(tokens):
    return "".join(map(chr, tokens))


@given(
    st.integers(400, 3000),
    st.floats(0, 1),
    st.integers(10_000, 99_999),
    st.lists(st.text("abcdé. ", min_size=1), min_size=1, max_size=4),
)
def test_one_sentence_more_would_be_too_long(length, depth, key, haystack):
    tokens = build(characters, length=length, depth=depth, key=key, haystack=haystack)
    assert len(tokens) + ROOM <= length < len(tokens) + ROOM + 1 + max(map(len, haystack)) + 1
    task, body, question = text_of(tokens).split("\n\n")
    assert task.startswith("A pass key is hidden")
    assert question.endswith("What is the pass key? The pass key is")
    (needle,) = NEEDLE.finditer(body)
    assert needle[1] == str(key)


@given(st.integers(500, 4000), st.floats(0, 1))
def test_the_key_is_as_deep_as_asked(length, depth):
    body = text_of(build(characters, length=length, depth=depth, key=12345)).split("\n\n")[1]
    before, _, after = NEEDLE.split(body)
    counts = [len(sentences(part)) for part in (before, after)]
    assert abs(counts[0] - depth * sum(counts)) <= 0.5
    cycled = [FILLER[i % len(FILLER)] for i in range(sum(counts))]
    assert sentences(before) + sentences(after) == cycled


def test_the_ends_of_the_depth():
    first, last = (text_of(build(characters, length=600, depth=d, key=54321)) for d in (0.0, 1.0))
    assert "\n\nThe pass key is 54321." in first
    assert "54321 is the pass key.\n\nThe text ends here." in last


def test_a_length_that_is_too_short():
    shortest = len(build(characters, length=2000, depth=0, key=12345, haystack=["x" * 1000])) - 1000 + ROOM
    with pytest.raises(
        ValueError, match=f"at least {shortest + 10} tokens with this tokenizer, got {shortest + 9}"
    ):
        build(characters, length=shortest + 9, depth=0, key=12345, haystack=["x" * 10])
    assert build(characters, length=shortest + 10, depth=0, key=12345, haystack=["x" * 10])
    for length in (1, ROOM):
        with pytest.raises(ValueError, match="passkeys need at least"):
            build(characters, length=length, depth=0, key=12345)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 12345", True),
        (" **12345**. Keep", True),
        ("\n12345 and 99999", True),
        (" 99999, not 12345", False),
        (" 123456", False),
        (" 1234", False),
        ("", False),
        (" twelve", False),
    ],
)
def test_the_first_number_is_the_answer(answer, right):
    assert is_right(answer, 12345) is right


def test_a_text_as_a_haystack():
    text = "\n One two. Three?  Four!\nNo. 5 a.b\n\n\n end "
    assert sentences(text) == ["One two.", "Three?", "Four!", "No.", "5 a.b", "end"]


def test_plain_and_chat_encoding():
    assert encoder(Tokens())("a", "b") == [1, ord("a"), ord(" "), ord("b")]
    assert text_of(encoder(Chatty(), chat=True)("a", "b")) == "<user>a</user><assistant>b"
    with pytest.raises(ValueError, match="no chat template"):
        encoder(Tokens(), chat=True)


def test_a_chat_template_that_cannot_be_used():
    class Refusing(Chatty):
        name_or_path = "tiny"

        def apply_chat_template(self, turns, **options):
            raise TemplateError("tools\nonly")

    encode = encoder(Refusing(), chat=True)
    with pytest.raises(ValueError, match=r"^tiny: its chat template cannot be used: tools only$"):
        build(encode, length=600, depth=0, key=12345)


def plan(**changes):
    return Plan(**{"lengths": [512, 1024], "depths": [0.0, 0.5, 1.0], "trials": 2, **changes})


def test_keys_are_seeded_and_their_own_in_every_cell():
    one = plan(trials=50)
    cells = [tuple(one.keys(n, d)) for n in one.lengths for d in one.depths]
    assert len(set(cells)) == 6
    assert all(10_000 <= key <= 99_999 for cell in cells for key in cell)
    assert one.keys(512, 0) == plan(trials=50, lengths=[512]).keys(512, 0.0) != plan(seed=1).keys(512, 0)
    assert plan(trials=3).keys(512, 0) == one.keys(512, 0)[:3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": []}, "lengths must rise, each given once, got none"),
        ({"lengths": [2, 1]}, "lengths must rise, each given once, got 2, 1"),
        ({"depths": [0.5, 0.5]}, "depths must rise, each given once, got 0.5, 0.5"),
        ({"depths": [0.5, 1.5]}, "depths must be from 0 to 1, got 0.5, 1.5"),
        ({"depths": [float("nan")]}, "depths must be from 0 to 1, got nan"),
        ({"trials": 0}, "trials must be an integer >= 1 .*, got 0"),
    ],
)
def test_a_plan_that_is_none(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        plan(**changes)


@pytest.fixture
def subject():
    from transformers import AutoModelForCausalLM, LlamaConfig

    from resrope.models.apply import rope_of

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=32,
        vocab_size=128,
        max_position_embeddings=512,
        eos_token_id=[3, 4],
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    return Subject(name="tiny", model=model, tokenizer=Tokens(), rope=rope_of(model), identity="tiny")


@pytest.fixture
def knowing(monkeypatch, subject):
    """A model that finds every key up to 512 tokens, beyond only with YaRN and not at depth 0.

    Appends (tokens, inv_freq of the rotary module) per question to the list that is returned.
    """
    asked = []

    def answer(model, tokens, count, *, chunk, stop, progress):
        assert count == ROOM
        assert set(stop) == {2, 3, 4}
        frequencies = model.model.rotary_emb.inv_freq.clone()
        asked.append((len(tokens), frequencies))
        progress(len(tokens))
        text = text_of(tokens)
        yarn = frequencies[-1] != asked[0][1][-1]
        seen = len(tokens) <= 512 or (yarn and "\n\nThe pass key is" not in text)
        return [ord(c) for c in " " + (NEEDLE.search(text)[1] if seen else "00000")]

    monkeypatch.setattr(retrieval, "continuation", answer)
    return asked


def ask(subject, asked_plan, folder, methods=("own", "yarn"), **options):
    encode = encoder(subject.tokenizer)
    return measure(subject, candidates(methods), asked_plan, encode, Records(folder), **options)


def test_every_method_is_asked_with_its_own_table(subject, knowing, tmp_path):
    found = ask(subject, plan(), tmp_path)
    assert [n for n, _ in knowing] == sorted(n for n, _ in knowing)
    assert len(knowing) == 2 * 2 * 3 * 2
    assert len({tuple(table.tolist()) for _, table in knowing}) == 2
    data = json.loads(json.dumps(found.to_dict()))
    own, yarn = data["methods"]["own"], data["methods"]["yarn"]
    assert (own["by_length"], own["accuracy"]) == ({"512": 1.0, "1024": 0.0}, 0.5)
    assert yarn["by_length"] == {"512": 1.0, "1024": pytest.approx(2 / 3)}
    assert yarn["grid"][3] == {"length": 1024, "depth": 0.0, "correct": 0, "trials": 2}
    assert [cell["depth"] for cell in yarn["grid"]] == [0.0, 0.5, 1.0] * 2
    assert (data["native_length"], data["target"], data["lengths"]) == (512, 1024, [512, 1024])
    assert data["commits"] == [str(provenance()["commit"])]


def test_progress_is_all_tokens_whether_kept_or_not(subject, knowing, tmp_path):
    for questions in (24, 24):
        steps = []
        ask(subject, plan(), tmp_path, progress=steps.append)
        assert sum(steps) == 2 * plan().tokens
        assert len(knowing) == questions


def test_a_killed_run_goes_on(subject, knowing, tmp_path, monkeypatch):
    answer = retrieval.continuation

    def killed(*arguments, **options):
        if len(knowing) == 10:
            raise KeyboardInterrupt
        return answer(*arguments, **options)

    monkeypatch.setattr(retrieval, "continuation", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(subject, plan(), tmp_path)
    monkeypatch.setattr(retrieval, "continuation", answer)
    found = ask(subject, plan(), tmp_path)
    assert len(knowing) == 24
    assert found == ask(subject, plan(), tmp_path)
    assert len(knowing) == 24
    kept = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert {(one["method"], one["length"], one["depth"]) for one in kept} == {
        (method, n, d) for method in ("own", "yarn") for n in (512, 1024) for d in (0.0, 0.5, 1.0)
    }


@pytest.mark.parametrize("change", ["more trials", "seed", "haystack", "weights", "target"])
def test_only_the_same_question_is_not_asked_again(subject, knowing, tmp_path, change):
    ask(subject, plan(), tmp_path)
    before, options, changed = len(knowing), {}, plan()
    if change == "more trials":
        changed = plan(trials=3)
    elif change == "seed":
        changed = plan(seed=1)
    elif change == "haystack":
        options["haystack"] = ["Another sentence."]
    elif change == "weights":
        subject = Subject(
            name="tiny", model=subject.model, tokenizer=subject.tokenizer, rope=subject.rope, identity="other"
        )
    else:
        changed = plan(target=2048)
    ask(subject, changed, tmp_path, **options)
    assert len(knowing) - before == {"more trials": 12, "target": 12}.get(change, 24)


def test_the_model_is_left_as_it_was(subject, knowing, tmp_path):
    before = subject.model.model.rotary_emb.inv_freq.clone()
    ask(subject, plan(), tmp_path)
    assert torch.allclose(subject.model.model.rotary_emb.inv_freq, before, rtol=1e-6)


def test_what_cannot_be_asked_is_said_before_the_first_question(subject, knowing, tmp_path):
    with pytest.raises(ValueError, match="passkeys need at least"):
        ask(subject, plan(lengths=[64, 1024]), tmp_path)
    with pytest.raises(ValueError, match="factor"):
        ask(subject, plan(), tmp_path, methods=("own", "yarn:factor=0.5"))
    assert knowing == []


def test_a_length_beyond_memory_is_refused_before_its_text_is_built(subject, knowing, tmp_path):
    with pytest.raises(ValueError, match=r"^1000000000 tokens need about .* tokens would fit"):
        ask(subject, plan(lengths=[512, 10**9]), tmp_path)
    assert knowing == []


def test_an_answer_that_is_damaged(subject, knowing, tmp_path):
    ask(subject, plan(), tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    for damage in ("{", "[]", '{"method": "own"}'):
        path.write_text(damage)
        with pytest.raises(ValueError, match=f"{path} is damaged; remove it and run again"):
            ask(subject, plan(), tmp_path)


def test_a_real_model_answers_greedily(subject, tmp_path):
    """The answer against transformers' own generate, whose tokens the stub tokenizer shows one to one."""
    one = plan(lengths=[400], depths=[0.5], trials=1)
    ask(subject, one, tmp_path, methods=["own"])
    (kept,) = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    (key,) = one.keys(400, 0.5)
    tokens = build(encoder(subject.tokenizer), length=400, depth=0.5, key=key)
    options = {"max_new_tokens": ROOM, "do_sample": False, "pad_token_id": 0}
    made = subject.model.generate(
        torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), **options
    )
    answer = text_of(t for t in made[0, len(tokens) :].tolist() if t not in (2, 3, 4))
    assert (kept["key"], kept["answer"], kept["method"]) == (key, answer, "own")


def test_the_picture():
    pytest.importorskip("matplotlib")
    from resrope.longtext.heatmap import heatmap

    cells = [
        Cell(length=n, depth=d, correct=int(n < 1024), trials=1) for n in (512, 1024) for d in (0.0, 0.5, 1.0)
    ]
    methods = dict.fromkeys(("own", "yarn", "resonance-yarn", "linear"), cells)
    found = Retrieval(model="tiny", plan=plan(trials=1), native_length=512, methods=methods)
    made = heatmap(found)
    drawn = [axis for axis in made.axes if axis.images]
    assert [axis.get_title() for axis in drawn] == [
        f"{name}: 50 % found" for name in ("own", "YaRN", "Resonance YaRN", "Linear (PI)")
    ]
    assert drawn[0].images[0].get_array().tolist() == [[1, 0]] * 3
    assert [text.get_text() for text in drawn[0].texts] == ["100", "0"] * 3
    assert [label.get_text() for label in drawn[0].get_xticklabels()] == ["512", "1k"]
    assert drawn[0].lines[0].get_xdata()[0] == 0.5
    beyond = Retrieval(model="tiny", plan=plan(trials=1), native_length=None, methods={"own": cells})
    assert heatmap(beyond).axes[0].lines[:] == []
