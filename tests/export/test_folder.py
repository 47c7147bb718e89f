import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from resrope.export import folder as module
from resrope.export.folder import with_section, write_folder

CONFIG = {"model_type": "llama", "max_position_embeddings": 4096}
SECTION = "- method: yarn"


@pytest.fixture
def source(tmp_path):
    """A folder with the kinds of files that hubs hold."""
    folder = tmp_path / "source"
    (folder / "extra").mkdir(parents=True)
    save_file({"a": torch.ones(3), "b": torch.zeros(2)}, folder / "model.safetensors")
    texts = {
        "config.json": '{"model_type": "llama"}',
        "generation_config.json": "{}",
        "tokenizer.json": '{"version": "1.0"}',
        "tokenizer_config.json": json.dumps({"model_max_length": 1024, "chat_template": "ä {{x}}"}),
        "special_tokens_map.json": "{}",
        "README.md": "---\nlicense: mit\n---\n# Model\n",
        "extra/notes.txt": "kept",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in (
        "pytorch_model.bin",
        "consolidated.00.pth",
        "model.Q4.gguf",
        "extra/model.onnx",
        "old.safetensors",
    ):
        (folder / name).write_bytes(b"other weights")
    for name in (".git", ".cache"):
        (folder / name).mkdir()
        (folder / name / "config").write_text("x")
    return folder


def write(source, out, **given):
    return write_folder(source, out, CONFIG, **{"length": 4096, "section": SECTION, **given})


def left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir())


def test_everything_is_there_but_other_weights(source, tmp_path):
    out = tmp_path / "out"
    done = write(source, out, link=True)
    assert done.files == (
        "README.md",
        "config.json",
        "extra/notes.txt",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert done.linked == ("model.safetensors",)
    assert (out / "model.safetensors").stat().st_ino == (source / "model.safetensors").stat().st_ino
    assert set(done.left_out) == {
        "pytorch_model.bin",
        "consolidated.00.pth",
        "model.Q4.gguf",
        "extra/model.onnx",
        "old.safetensors",
    }
    assert json.loads((out / "config.json").read_text()) == CONFIG
    assert json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8")) == {
        "model_max_length": 4096,
        "chat_template": "ä {{x}}",
    }
    assert left(tmp_path) == ["out", "source"]


def test_only_weights_are_links(source, tmp_path):
    """Whoever edits a written text must not edit the source's."""
    write(source, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or path.name == "model.safetensors" or path.stat().st_nlink == 1


@pytest.mark.parametrize("limit", [8192, 10**30, None, "absent"])
def test_a_tokenizer_that_allows_more_stays_as_it_is(source, tmp_path, limit):
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({} if limit == "absent" else {"model_max_length": limit}))
    write(source, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == path.read_text()


def test_edited_shards_are_written_and_the_source_stays(source, tmp_path):
    before = (source / "model.safetensors").read_bytes()
    done = write(source, tmp_path / "out", edits={"a": lambda t: t * 3})
    assert done.linked == ()
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [3, 3, 3]
    assert (source / "model.safetensors").read_bytes() == before


def test_progress_ends_at_the_total(source, tmp_path):
    seen = []
    write(source, tmp_path / "out", progress=lambda *both: seen.append(both))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_out_that_exists_stays_as_it_is(source, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out: already there"):
        write(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ValueError, match="dangling: already there"):
        write(source, tmp_path / "dangling")


def test_out_must_lie_in_a_folder_and_not_inside_the_source(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="No such folder"):
        write(source, tmp_path / "no" / "out")
    with pytest.raises(ValueError, match="lies inside"):
        write(source, source / "out")
    assert not (source / "out").exists()


def test_too_small_a_disk_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"No space left: 0.0 MB to write, 0.0 MB free") as error:
        write(source, tmp_path / "out")
    assert error.value.errno == errno.ENOSPC
    assert left(tmp_path) == ["source"]


def test_links_need_no_space(source, tmp_path, monkeypatch):
    save_file({"a": torch.ones(300_000)}, source / "model.safetensors")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    write(source, tmp_path / "out", link=True)
    for needs in ({}, {"link": True, "edits": {"a": lambda t: t}}):
        with pytest.raises(OSError, match="No space left"):
            write(source, tmp_path / "more", **needs)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_stops(source, tmp_path, monkeypatch, error):
    def stop(*args):
        raise error

    monkeypatch.setattr(module, "_write_texts", stop)
    with pytest.raises(type(error)):
        write(source, tmp_path / "out")
    assert left(tmp_path) == ["source"]


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_a_damaged_tokenizer_config_is_one_line(source, tmp_path, text):
    (source / "tokenizer_config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"tokenizer_config.json: "):
        write(source, tmp_path / "out")
    assert left(tmp_path) == ["source"]


def test_files_behind_symbolic_links_as_in_the_caches_of_hubs(source, tmp_path):
    blobs = tmp_path / "blobs"
    source.rename(blobs)
    source.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (source / name).symlink_to(os.path.relpath(blobs / name, source))
    write(source, tmp_path / "out")
    files = list((tmp_path / "out").iterdir())
    assert not any(path.is_symlink() for path in files)
    assert {p.name for p in files} == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


CARD = "---\nlicense: mit\n---\n# Model\n\nText.\n"


def test_section_is_added_and_later_replaced():
    once = with_section(CARD, "one")
    assert once == CARD + "\n## Extended context\n\none\n"
    assert with_section(once, "two") == CARD + "\n## Extended context\n\ntwo\n"


def test_what_follows_the_section_stays():
    card = with_section(CARD, "one") + "\n### Part of it\n\n## Licence\n\nMIT\n"
    assert with_section(card, r"a \1 b") == CARD + "\n## Extended context\n\na \\1 b\n\n## Licence\n\nMIT\n"


@pytest.mark.parametrize("card", [None, "", "\n\n"])
def test_a_card_is_made_where_there_is_none(card):
    assert with_section(card, "one") == "## Extended context\n\none\n"
