import dataclasses
import math
import os

import numpy as np
import pytest

from resrope.longtext import store as module
from resrope.longtext.store import Store, key_of
from resrope.spec import RopeSpec, Yarn, frequencies

TABLE = frequencies(RopeSpec(head_dim=16, scaling=Yarn(factor=4, original_max_position_embeddings=256)))
LOSSES = np.array([0.25, 3.5, 1e-7, 11.0], dtype=np.float32)
MADE = {"method": "yarn", "seconds": 1.5, "commit": None}


def test_what_is_kept_comes_back_to_the_bit(tmp_path):
    Store(tmp_path / "deep" / "losses").put("k", LOSSES, MADE)
    again = Store(tmp_path / "deep" / "losses")
    found = again.get("k", 4)
    assert found.dtype == np.float32
    assert found.tolist() == LOSSES.tolist()
    assert again.made("k") == MADE
    assert sorted(p.name for p in again.folder.iterdir()) == ["k.json", "k.npy"]


def test_a_longer_text_serves_a_shorter_one_and_not_the_other_way(tmp_path):
    store = Store(tmp_path)
    assert store.get("k", 1) is None
    store.put("k", LOSSES, MADE)
    assert store.get("k", 2).tolist() == LOSSES[:2].tolist()
    assert store.get("k", 5) is None
    store.put("k", np.arange(5, dtype=np.float32), {**MADE, "seconds": 2})
    assert store.get("k", 5).tolist() == [0, 1, 2, 3, 4]
    assert store.made("k")["seconds"] == 2


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-3], lambda d: d[:20], lambda d: b"x" * 200])
def test_a_damaged_file_is_named_in_one_line(tmp_path, damage):
    store = Store(tmp_path)
    store.put("k", LOSSES, MADE)
    path = tmp_path / "k.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"k\.npy is damaged; remove it and run again: .+") as caught:
        store.get("k", 4)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_is_damage(tmp_path):
    Store(tmp_path).put("k", np.array([1.0, np.nan], dtype=np.float32), MADE)
    with pytest.raises(ValueError, match=r"k\.npy is damaged; .*: a loss is not a number"):
        Store(tmp_path).get("k", 1)


@pytest.mark.parametrize("text", ["", "{", "5,"])
def test_a_damaged_record_is_named_in_one_line(tmp_path, text):
    store = Store(tmp_path)
    store.put("k", LOSSES, MADE)
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(ValueError, match=r"k\.json is damaged; remove it") as caught:
        store.made("k")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("writes", [0, 1])
def test_killed_between_the_two_files_nothing_counts_as_kept(tmp_path, monkeypatch, writes):
    done, write = [], module.atomic_write

    def dying(path, data):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write(path, data)

    monkeypatch.setattr(module, "atomic_write", dying)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).put("k", LOSSES, MADE)
    monkeypatch.undo()
    store = Store(tmp_path)
    assert store.get("k", 4) is None
    store.put("k", LOSSES, MADE)
    assert store.get("k", 4).tolist() == LOSSES.tolist()
    assert store.made("k") == MADE


def test_leftovers_of_a_kill_are_removed(tmp_path):
    old, new = tmp_path / ".k.npy.abcd.partial", tmp_path / ".k.npy.ef01.partial"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    Store(tmp_path)
    assert list(tmp_path.iterdir()) == [new], "somebody may be writing it"


def key(**changes):
    given = {"identity": "model", "tables": {"full": TABLE}, "tokens": (5, 6, 7), "protocol": "prefix"}
    return key_of(**{**given, **changes})


def nudged(table, index=None):
    """``table`` with the last bit of one frequency, or of the attention factor, another."""
    if index is None:
        return dataclasses.replace(table, attention_factor=math.nextafter(table.attention_factor, 2))
    inv_freq = list(table.inv_freq)
    inv_freq[index] = math.nextafter(inv_freq[index], 0)
    return dataclasses.replace(table, inv_freq=tuple(inv_freq))


def test_every_ingredient_changes_the_key():
    keys = [
        key(),
        key(identity="model2"),
        key(tables={"full": nudged(TABLE, 0)}),
        key(tables={"full": nudged(TABLE, -1)}),
        key(tables={"full": nudged(TABLE)}),
        key(tables={"sliding": TABLE}),
        key(tables={"full": TABLE, "sliding": TABLE}),
        key(tokens=(5, 6)),
        key(tokens=(5, 6, 8)),
        key(tokens=(6, 5, 7)),
        key(protocol="64/32"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(k) == 32 and int(k, 16) >= 0 for k in keys)


def test_what_is_the_same_has_the_same_key():
    assert key() == key(tokens=[5, 6, 7]) == key(tokens=np.array([5, 6, 7], dtype=np.int32))
    two = {"a": TABLE, "b": nudged(TABLE)}
    assert key(tables=two) == key(tables=dict(reversed(two.items())))
