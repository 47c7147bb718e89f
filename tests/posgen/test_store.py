import errno
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from resrope.posgen import store
from resrope.posgen.splits import make_splits
from resrope.posgen.store import atomic_write, read_manifest, read_splits, write_splits
from resrope.posgen.tasks import Task

TASK = Task(name="semi-recursive")
SIZES = {"train": 20, "validation": 4, "test": 6, "train_length": 16, "test_length": 32}


@pytest.fixture
def splits():
    return make_splits(TASK, **SIZES, seed=1)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(tmp_path, splits):
    assert write_splits(tmp_path / "deep" / "out", TASK, splits, seed=1, version="1.2")
    task, again = read_splits(tmp_path / "deep" / "out")
    assert task == TASK
    for name, tokens in splits.by_name().items():
        assert again.by_name()[name].dtype == np.uint8
        assert np.array_equal(again.by_name()[name], tokens)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_tokens_wider_than_a_byte(tmp_path):
    task = Task(name="cot", modulus=70_000)
    splits = make_splits(task, **SIZES, seed=1)
    write_splits(tmp_path / "out", task, splits, seed=1, version="0")
    again = read_splits(tmp_path / "out")[1]
    assert np.array_equal(again.test, splits.test)
    assert again.test.dtype == np.uint32


def test_another_kind_of_split_is_another_folder(tmp_path, splits):
    write_splits(tmp_path, TASK, splits, seed=1, version="1")
    with pytest.raises(ValueError, match=r"other settings \(split differ\)"):
        write_splits(tmp_path, TASK, splits, seed=1, version="1", split="released")
    manifest = read_manifest(tmp_path)
    assert manifest.pop("split") == "disjoint"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))  # as folders from before it was there
    assert not write_splits(tmp_path, TASK, splits, seed=1, version="1")


def test_manifest_says_what_is_there(tmp_path, splits):
    write_splits(tmp_path, TASK, splits, seed=1, version="1.2")
    manifest = read_manifest(tmp_path)
    settings = {"name": "semi-recursive", "j": 1, "k": 3, "modulus": 17, "h": "sum", "h_seed": 0}
    assert (manifest["task"], manifest["seed"], manifest["resrope"]) == (settings, 1, "1.2")
    for name, tokens in splits.by_name().items():
        stored = (tmp_path / f"{name}.parquet").read_bytes()
        assert manifest["splits"][name] == {
            "rows": tokens.shape[0],
            "length": tokens.shape[1],
            "array_sha256": hashlib.sha256(bytes(tokens.ravel().tolist())).hexdigest(),
            "file_sha256": hashlib.sha256(stored).hexdigest(),
        }


def test_datasets_loads_the_folder_as_it_is(tmp_path, splits):
    """In a process of its own: `datasets` reads its environment once and patches other modules."""
    write_splits(tmp_path / "out", TASK, splits, seed=1, version="0")
    script = (
        "import sys, json, datasets; loaded = datasets.load_dataset(sys.argv[1]);"
        "print(json.dumps({name: loaded[name]['tokens'][:] for name in loaded}))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    expected = {name: tokens.tolist() for name, tokens in splits.by_name().items()}
    assert json.loads(run.stdout) == expected


def test_writing_again_changes_nothing(tmp_path, splits):
    assert write_splits(tmp_path, TASK, splits, seed=1, version="1")
    before = files(tmp_path)
    assert not write_splits(tmp_path, TASK, splits, seed=1, version="2")
    assert files(tmp_path) == before


def test_other_settings_are_refused(tmp_path, splits):
    write_splits(tmp_path, TASK, splits, seed=1, version="1")
    before = files(tmp_path)
    other = make_splits(Task(name="cot"), **SIZES, seed=1)
    with pytest.raises(ValueError, match=r"other settings \(task, splits differ\)"):
        write_splits(tmp_path, Task(name="cot"), other, seed=1, version="1")
    with pytest.raises(ValueError, match=r"other settings \(seed, splits differ\)"):
        write_splits(tmp_path, TASK, make_splits(TASK, **SIZES, seed=2), seed=2, version="1")
    assert files(tmp_path) == before


FOREIGN = [
    "{",
    "[" * 10**5,
    "[]",
    "{}",
    '{"task": null, "seed": 0, "splits": {}}',
    '{"task": {}, "seed": 0, "splits": {"test": 1}}',
    '{"task": {}, "seed": 0, "splits": {"train": {}, "validation": {}, "test": {}}}',
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_manifest_is_refused(tmp_path, splits, content):
    (tmp_path / "manifest.json").write_text(content)
    match = r"manifest\.json (is not|must hold a JSON object)"
    with pytest.raises(ValueError, match=match):
        write_splits(tmp_path, TASK, splits, seed=1, version="1")
    with pytest.raises(ValueError, match=match):
        read_splits(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("modulus", 0), ("modulo", 7), ("h", "none")])
def test_a_manifest_of_a_task_that_cannot_be(tmp_path, splits, field, value):
    write_splits(tmp_path, TASK, splits, seed=1, version="1")
    manifest = read_manifest(tmp_path)
    manifest["task"][field] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"is not the manifest of PosGen splits: .*{field}"):
        read_splits(tmp_path)


def test_a_foreign_folder_or_file_is_refused(tmp_path, splits):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=r"must be a folder of PosGen splits"):
            write_splits(out, TASK, splits, seed=1, version="1")
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_damage_is_noticed(tmp_path, splits):
    write_splits(tmp_path, TASK, splits, seed=1, version="1")
    test = tmp_path / "test.parquet"
    data = bytearray(test.read_bytes())
    data[len(data) // 2] ^= 1
    test.write_bytes(data)
    with pytest.raises(ValueError, match=r"test\.parquet does not match the sha256"):
        read_splits(tmp_path)
    with pytest.raises(ValueError, match=r"test\.parquet does not match the sha256"):
        write_splits(tmp_path, TASK, splits, seed=1, version="1")
    test.unlink()
    with pytest.raises(ValueError, match=r"test\.parquet is missing"):
        read_splits(tmp_path)


def test_swapped_tokens_are_noticed_even_with_a_new_file_hash(tmp_path, splits):
    write_splits(tmp_path, TASK, splits, seed=1, version="1")
    store._write_parquet(tmp_path / "test.parquet", splits.test[::-1])
    manifest = read_manifest(tmp_path)
    digest = hashlib.sha256((tmp_path / "test.parquet").read_bytes()).hexdigest()
    manifest["splits"]["test"]["file_sha256"] = digest
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"the tokens of .* do not match"):
        read_splits(tmp_path)


def test_a_function_without_a_name_cannot_be_stored(tmp_path):
    task = Task(name="cot", h=lambda sources, modulus: sources[0])
    splits = make_splits(task, **SIZES, seed=1)
    with pytest.raises(ValueError, match="h must be a name to be stored"):
        write_splits(tmp_path / "out", task, splits, seed=1, version="1")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, splits, monkeypatch):
    written = []

    def fill(path, tokens):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        path.write_bytes(b"half")

    monkeypatch.setattr(store, "_write_parquet", fill)
    with pytest.raises(OSError, match="No space left"):
        write_splits(tmp_path / "out", TASK, splits, seed=1, version="1")
    assert written
    assert not list(tmp_path.iterdir())


def test_atomic_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "record.json"
    atomic_write(path, "λ\n")
    assert path.read_bytes() == "λ\n".encode()
    atomic_write(path, b"\x00\x01")
    assert files(tmp_path) == {"record.json": b"\x00\x01"}


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    atomic_write(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")
    assert files(tmp_path) == {"record.json": b"old"}
