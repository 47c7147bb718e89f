import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resrope.finetune.chunks import prepare, split
from resrope.longtext.subject import tokenizer_of


@pytest.fixture(scope="module")
def tokenizer(letters):
    return tokenizer_of(letters)


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("abcdefghij")
    (tmp_path / "texts" / "b.txt").write_text("xyz")
    (tmp_path / "texts" / "c.txt").write_text("klmnopqr")
    return tmp_path / "texts"


def test_a_chunk_is_of_one_text_and_what_is_left_over_is_counted(texts, tokenizer, tmp_path):
    made = prepare([str(texts)], tokenizer, 4, tmp_path / "cache")
    rows = [tokenizer.decode(row) for row in made.rows()["input_ids"]]
    assert rows == ["abcd", "efgh", "klmn", "opqr"]
    assert [(d.name, d.tokens, d.chunks, d.left_over) for d in made.documents] == [
        ("a.txt", 10, 2, 2),
        ("b.txt", 3, 0, 3),
        ("c.txt", 8, 2, 0),
    ]
    assert len(made) == 4
    assert made.summary() == (
        "4 chunks of 4 tokens from 3 texts, among them 1 shorter than a chunk; "
        "5 of 21 tokens left over at their ends (23.8%)"
    )


@given(tokens=st.integers(0, 60), length=st.integers(2, 12), prefix=st.integers(0, 1))
def test_no_token_is_lost_in_between(tokens, length, prefix):
    text = np.arange(100, 100 + tokens, dtype=np.int32)
    made = split(text, [7] * prefix, length)
    assert made.shape == (tokens // (length - prefix), length)
    assert (made[:, :prefix] == 7).all()
    body = made[:, prefix:].reshape(-1)
    assert (body == text[: len(body)]).all()
    assert tokens - len(body) < length - prefix


def test_what_a_tokenizer_puts_before_a_text_begins_every_chunk(texts, tmp_path, letters):
    from tokenizers.processors import TemplateProcessing

    with_bos = tokenizer_of(letters)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single="! $A", special_tokens=[("!", 0)])
    made = prepare([str(texts)], with_bos, 4, tmp_path / "cache")
    assert made.prefix == (0,)
    assert [with_bos.decode(row) for row in made.rows()["input_ids"]] == [
        "!abc", "!def", "!ghi", "!xyz", "!klm", "!nop"
    ]  # fmt: skip


def test_prepared_once_and_never_stale(texts, tokenizer, tmp_path):
    cache, read = tmp_path / "cache", []
    first = prepare([str(texts)], tokenizer, 4, cache, progress=read.append)
    assert sum(read) == 21
    again = prepare([str(texts)], tokenizer, 4, cache, progress=read.append)
    assert sum(read) == 21
    assert again == first
    assert prepare([str(texts)], tokenizer, 5, cache).key != first.key
    (texts / "a.txt").write_text("Abcdefghij")
    changed = prepare([str(texts)], tokenizer, 4, cache)
    assert tokenizer.decode(changed.rows()[0]["input_ids"]) == "Abcd"
    (texts / "a.txt").write_text("abcdefghij")
    assert prepare([str(texts)], tokenizer, 4, cache).key == first.key


def test_another_tokenizer_makes_other_chunks(texts, tokenizer, tmp_path, letters):
    other = tokenizer_of(letters)
    other.add_tokens(["abc"])
    first = prepare([str(texts)], tokenizer, 4, tmp_path / "cache")
    assert prepare([str(texts)], other, 4, tmp_path / "cache").key != first.key


def test_killed_in_the_middle_nothing_is_there(texts, tokenizer, tmp_path):
    def kill(tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([str(texts)], tokenizer, 4, tmp_path / "cache", progress=kill)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(prepare([str(texts)], tokenizer, 4, tmp_path / "cache")) == 4


def test_damaged_chunks_are_named(texts, tokenizer, tmp_path):
    made = prepare([str(texts)], tokenizer, 4, tmp_path / "cache")
    (made.folder / "chunks.json").write_text(json.dumps({"length": 4}))
    with pytest.raises(ValueError, match="damaged, remove it to have the texts cut again"):
        prepare([str(texts)], tokenizer, 4, tmp_path / "cache")


def test_texts_that_give_nothing(texts, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no chunk of 40 tokens: the longest of 3 has 10"):
        prepare([str(texts)], tokenizer, 40, tmp_path / "cache")
