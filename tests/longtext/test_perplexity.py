from dataclasses import replace

import numpy as np
import pytest
import torch

import resrope
from resrope.longtext.candidates import candidates, placed, tables_at
from resrope.longtext.perplexity import (
    Encoded,
    Protocol,
    encode,
    long_enough,
    measure,
    passes,
    usual_lengths,
    work,
)
from resrope.longtext.store import Store
from resrope.longtext.subject import Subject
from resrope.longtext.texts import Text
from resrope.longtext.windows import blocks, sliding_windows
from resrope.models.apply import rope_of

TRAINED = 64
LENGTHS = (32, 64, 128, 200)
PROTOCOL = Protocol(lengths=LENGTHS, block=48, chunk=70)
SLIDING = Protocol(lengths=(40, 150), window=48, stride=16)


def text(name, tokens):
    draw = torch.Generator().manual_seed(tokens)
    return Encoded(name=name, tokens=tuple(torch.randint(3, 128, (tokens,), generator=draw).tolist()))


TEXTS = [text("long", 220), text("middle", 130), text("short", 40)]


@pytest.fixture
def model(tiny):
    return lambda: tiny("llama", max_position_embeddings=TRAINED, initializer_range=0.2)


@pytest.fixture
def subject(model):
    made = model()
    return Subject(name="tiny", model=made, tokenizer=None, rope=rope_of(made), identity="tiny")


@pytest.fixture
def forwards(subject):
    """How many tokens every forward of the subject's model read."""
    read = []
    subject.model.register_forward_pre_hook(
        lambda m, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return read


def candidate(label):
    return candidates([label])[0]


def one_forward(model, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none").numpy()


def applied(model, label, length):
    """A model of its own, changed by ``resrope.apply`` for sequences of ``length`` tokens."""
    made = model()
    if label != "own":
        resrope.apply(made, label, length=length)
    return made


def brute_force(model, label):
    """(nats, tokens) by length and by block: one forward over every prefix of every text."""
    losses = {
        (text.name, n): one_forward(
            applied(model, label, n if "dynamic" in label else LENGTHS[-1]), text.tokens[:n]
        )
        for text in TEXTS
        for n in LENGTHS
        if n <= len(text.tokens)
    }
    empty = np.empty(0)
    by_length = [[losses.get((t.name, n), empty) for n in LENGTHS] for t in TEXTS]
    by_block = []
    for t in TEXTS:
        row = []
        for b in blocks(LENGTHS[-1], PROTOCOL.block):
            served = [n for n in LENGTHS if b.end <= n <= len(t.tokens)]
            inside = [p for p in range(b.start, b.end) if p >= 1] if served else []
            row.append([losses[t.name, served[0]][p - 1] for p in inside])
        by_block.append(row)
    return by_length, by_block


@pytest.mark.parametrize("label", ["own", "yarn", "resonance-dynamic-ntk"])
def test_it_is_a_forward_over_every_prefix(model, subject, tmp_path, label):
    found = measure(subject, candidate(label), TEXTS, PROTOCOL, Store(tmp_path))
    for tally, cells in zip((found.by_length, found.by_block), brute_force(model, label), strict=True):
        assert tally.tokens.tolist() == [[len(c) for c in row] for row in cells]
        assert np.allclose(tally.nats, [[sum(c) for c in row] for row in cells], atol=2e-3, rtol=1e-5)
    assert found.by_length.tokens.tolist() == [[31, 63, 127, 199], [31, 63, 127, 0], [31, 0, 0, 0]]
    assert found.by_block.tokens.tolist() == [[47, 48, 48, 56], [47, 48, 0, 0], [0, 0, 0, 0]]


def test_sliding_windows_are_forwards_of_their_own(model, subject, tmp_path):
    sliding = replace(SLIDING, target=150)
    done = placed(candidate("resonance-yarn"), subject.rope, 150)
    found = measure(subject, candidate("resonance-yarn"), TEXTS[:1], sliding, Store(tmp_path))
    oracle = model()
    resrope.apply(oracle, "resonance-yarn", length=done.length)
    tokens, losses = TEXTS[0].tokens[:150], []
    for w in sliding_windows(150, 48, 16):
        losses += one_forward(oracle, tokens[w.start : w.end])[w.scored - w.start - 1 :].tolist()
    assert len(losses) == 149
    assert found.by_length.tokens.tolist() == [[39, 149]]
    assert np.allclose(found.by_length.nats, [[sum(losses[:39]), sum(losses)]], rtol=1e-5)


def test_methods_in_windows_are_made_for_the_window_where_nothing_else_is_said():
    assert (SLIDING.serves, replace(SLIDING, target=150).serves, PROTOCOL.serves) == (48, 150, LENGTHS[-1])


def test_dynamic_ntk_in_windows_has_the_base_of_the_window(subject):
    done = placed(candidate("dynamic-ntk"), subject.rope, 150)
    (only,) = passes(done, Protocol(lengths=(40, 150), window=100, stride=50))
    assert only.lengths == (40, 150)
    assert only.tables == tables_at(done, 100) != tables_at(done, 150)


def test_one_pass_but_for_tables_that_follow_the_length(subject):
    def lengths(label):
        return [p.lengths for p in passes(placed(candidate(label), subject.rope, 200), PROTOCOL)]

    assert lengths("own") == lengths("yarn") == lengths("resonance-yarn:factor=2") == [LENGTHS]
    assert lengths("dynamic-ntk") == [(32, 64), (128,), (200,)]


@pytest.mark.parametrize(
    ("label", "reads"), [("yarn", [199, 127, 31]), ("dynamic-ntk", [63, 127, 199, 63, 127, 31])]
)
def test_nothing_is_read_twice(subject, forwards, tmp_path, label, reads):
    protocol = Protocol(lengths=LENGTHS, block=48)
    told = []
    first = measure(subject, candidate(label), TEXTS, protocol, Store(tmp_path), progress=told.append)
    assert forwards == reads
    total = work(placed(candidate(label), subject.rope, LENGTHS[-1]), TEXTS, protocol)
    assert sum(told) == total == sum(reads)
    forwards.clear()
    told.clear()
    again = measure(subject, candidate(label), TEXTS, protocol, Store(tmp_path), progress=told.append)
    assert forwards == []
    assert sum(told) == total
    assert again.by_length.nats.tolist() == first.by_length.nats.tolist()
    assert again.by_block.nats.tolist() == first.by_block.nats.tolist()
    assert (again.forwards, again.commits) == (first.forwards, first.commits)
    assert len(first.forwards) == len(reads)


def test_fewer_lengths_are_there_already_and_longer_ones_are_not(subject, forwards, tmp_path):
    store = Store(tmp_path)
    for lengths, reads in [((32, 128), [127]), ((64,), []), ((128, 200), [199]), ((32, 200), [])]:
        forwards.clear()
        measure(subject, candidate("yarn"), TEXTS[:1], Protocol(lengths=lengths, target=200), store)
        assert forwards == reads


def test_windows_of_a_shorter_length_are_there_already(subject, forwards, tmp_path):
    told = []
    whole = measure(subject, candidate("own"), TEXTS[:1], SLIDING, Store(tmp_path), progress=told.append)
    assert sum(told) == sum(forwards) == work(placed(candidate("own"), subject.rope, 150), TEXTS[:1], SLIDING)
    forwards.clear()
    shorter = Protocol(lengths=(40, 100), window=48, stride=16)
    part = measure(subject, candidate("own"), TEXTS[:1], shorter, Store(tmp_path))
    assert forwards == []
    assert part.by_length.nats[0, 0] == whole.by_length.nats[0, 0]


def test_an_interrupted_run_goes_on(subject, forwards, tmp_path):
    def stop(tokens):
        if len(forwards) == 2:
            raise KeyboardInterrupt

    protocol = Protocol(lengths=LENGTHS)
    with pytest.raises(KeyboardInterrupt):
        measure(subject, candidate("yarn"), TEXTS, protocol, Store(tmp_path), progress=stop)
    forwards.clear()
    resumed = measure(subject, candidate("yarn"), TEXTS, protocol, Store(tmp_path))
    assert forwards == [127, 31]
    fresh = measure(subject, candidate("yarn"), TEXTS, protocol, Store(tmp_path / "fresh"))
    assert resumed.by_length.nats.tolist() == fresh.by_length.nats.tolist()


def test_every_reading_says_how_it_was_made(subject, tmp_path):
    measure(subject, candidate("yarn:factor=4"), TEXTS[1:], PROTOCOL, Store(tmp_path))
    made = [Store(tmp_path).made(p.stem) for p in tmp_path.glob("*.npy")]
    assert {m["text"]: m["tokens"] for m in made} == {"middle": 128, "short": 32}
    assert {(m["method"], m["model"], m["protocol"]) for m in made} == {("yarn:factor=4", "tiny", "prefix")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": ()}, "lengths must rise"),
        ({"lengths": (64, 32)}, "lengths must rise, each given once, got 64, 32"),
        ({"lengths": (32, 32)}, "lengths must rise, each given once, got 32, 32"),
        ({"lengths": (1, 32)}, "every length must be an integer >= 2"),
        ({"chunk": 0}, "chunk must be an integer >= 1"),
        ({"block": 1}, "block must be an integer >= 2"),
        ({"target": -5}, "target must be an integer >= 1"),
        ({"window": 16}, "window and stride must be given together"),
        ({"window": 16, "stride": 17}, "stride must be an integer >= 1 and <= 16"),
    ],
)
def test_a_protocol_that_is_none(changes, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**{"lengths": LENGTHS, **changes})


def test_a_length_that_no_text_reaches():
    assert [t.name for t in long_enough(TEXTS, 220)] == [t.name for t in TEXTS if len(t.tokens) >= 220]
    with pytest.raises(ValueError, match=r"no text has 221 tokens: the longest, .* has 220"):
        long_enough(TEXTS, 221)


def test_the_usual_lengths():
    texts = [text("a", 600), text("b", 5000)]
    assert usual_lengths(texts, 512) == [512, 1024, 2048]
    assert usual_lengths(texts, 8192) == usual_lengths(texts, None) == [512, 1024, 2048, 4096]
    assert usual_lengths(texts, 100) == [400]
    with pytest.raises(ValueError, match="the longest text has 220 tokens; without --lengths it takes 512"):
        usual_lengths(TEXTS, 8192)


def test_texts_are_encoded_as_the_tokenizer_begins_them():
    def tokenizer(text, *, verbose):
        assert not verbose
        return type("Encoding", (), {"input_ids": [1, *map(ord, text)]})

    assert encode(tokenizer, [Text(name="a", text="hi")]) == [Encoded(name="a", tokens=(1, 104, 105))]
