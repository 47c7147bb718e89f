import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from resrope.export import weights
from resrope.export.weights import checkpoint, patch, place, read_header

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.weight": torch.randn(5, 2).bfloat16(),
    "c.bias": torch.ones(7, dtype=torch.float16),
    "d.packed": torch.arange(6, dtype=torch.uint8),
}


def sharded(folder):
    """Two shards and their index."""
    names = {"model-1.safetensors": ["a.weight"], "model-2.safetensors": ["b.weight", "c.bias"]}
    for file, held in names.items():
        save_file({name: TENSORS[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in names.items() for name in held}
    (folder / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_header_agrees_with_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    found = read_header(path)
    assert set(found) == set(TENSORS)
    data = path.read_bytes()
    for name, at in found.items():
        assert at.shape == tuple(TENSORS[name].shape)
        assert data[at.start : at.end] == TENSORS[name].view(torch.uint8).numpy().tobytes()


def test_one_file_or_shards(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert checkpoint(tmp_path).files == (tmp_path / "model.safetensors",)
    (tmp_path / "more").mkdir()
    sharded(tmp_path / "more")
    found = checkpoint(tmp_path / "more")
    assert [p.name for p in found.files] == ["model-1.safetensors", "model-2.safetensors", weights.INDEX]
    assert set(found.tensors()) == {"a.weight", "b.weight", "c.bias"}


def test_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names the shard model-2.safetensors, which is not there"):
        checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_damaged_index_is_one_line(tmp_path, text):
    (tmp_path / weights.INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"not an index of safetensors shards|names no shard") as error:
        checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_index_cannot_reach_outside_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    save_file(TENSORS, tmp_path / "x.safetensors")
    (tmp_path / "in" / weights.INDEX).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ValueError, match=r"a shard must be a file beside the index, got '../x.safetensors'"):
        checkpoint(tmp_path / "in")


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"no weights; a Hugging Face folder holds model.safetensors"):
        checkpoint(tmp_path)


def test_pickled_weights_come_with_a_command_that_converts_them(tmp_path, monkeypatch):
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            vocab_size=16,
            num_attention_heads=2,
            pad_token_id=0,
        )
    )
    folder = tmp_path / "model"
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\)") as error:
        checkpoint(folder)
    assert "\n" not in str(error.value)
    code = re.search(r'python -c "(.*)"$', str(error.value))[1]
    monkeypatch.chdir(tmp_path)
    exec(code.rpartition(";")[0], {})  # without the tokenizer, which this folder has not
    state = load_file(tmp_path / "model-safetensors" / "model.safetensors")
    assert torch.equal(
        state["model.layers.0.self_attn.q_proj.weight"],
        model.state_dict()["model.layers.0.self_attn.q_proj.weight"],
    )
    checkpoint(tmp_path / "model-safetensors")


def damaged(data, how):
    length = int.from_bytes(data[:8], "little")
    return {
        "empty": b"",
        "short": data[:5],
        "cut": data[:-3],
        "longer": data + b"x",
        "huge header": (2**40).to_bytes(8, "little") + data[8:],
        "no JSON": data[:8] + b"x" * length + data[8 + length :],
        "a list": (2).to_bytes(8, "little") + b"[]",
        "nested": (10**5).to_bytes(8, "little") + b"[" * 10**5,
        "shape": data.replace(b"[3,4]", b"[3,5]"),
    }[how]


@pytest.mark.parametrize(
    "how", ["empty", "short", "cut", "longer", "huge header", "no JSON", "a list", "nested", "shape"]
)
def test_damaged_file_is_one_line(tmp_path, how):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(ValueError, match="damaged safetensors file") as error:
        checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_place_links_to_the_file_behind_a_symbolic_link(tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "name").symlink_to("blob")
    seen = []
    assert place(tmp_path / "name", tmp_path / "out", link=True, progress=seen.append)
    assert (tmp_path / "out").stat().st_ino == (tmp_path / "blob").stat().st_ino
    assert not (tmp_path / "out").is_symlink()
    assert sum(seen) == 7


def test_place_copies_unless_asked_and_where_links_fail(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"weights")
    assert not place(tmp_path / "a", tmp_path / "b")

    def refuse(*args, **kwargs):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert not place(tmp_path / "a", tmp_path / "c", link=True)
    for name in "bc":
        assert (tmp_path / name).read_bytes() == b"weights"
        assert (tmp_path / name).stat().st_nlink == 1


def test_patch_changes_the_named_tensors_and_no_other_byte(tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(TENSORS, source, metadata={"format": "pt"})
    patch(source, target, {"b.weight": lambda t: t * 2, "a.weight": lambda t: t + 1})
    got = load_file(target)
    assert torch.equal(got["b.weight"], TENSORS["b.weight"] * 2)
    assert torch.equal(got["a.weight"], TENSORS["a.weight"] + 1)
    changed = [read_header(source)[name] for name in ("a.weight", "b.weight")]
    before, after = source.read_bytes(), target.read_bytes()
    assert len(before) == len(after)
    differing = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y]
    assert differing
    assert all(any(at.start <= i < at.end for at in changed) for i in differing)


def test_patch_refuses_what_it_cannot_change(tmp_path):
    save_file(TENSORS, tmp_path / "a")
    with pytest.raises(ValueError, match="holds no tensor e"):
        patch(tmp_path / "a", tmp_path / "b", {"e": lambda t: t})
    with pytest.raises(
        ValueError, match=r"d.packed must be one of F64, F32, F16, BF16 to be changed, got U8"
    ):
        patch(tmp_path / "a", tmp_path / "b", {"d.packed": lambda t: t})
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_a_large_shard_streams(tmp_path):
    """96 MB of weights in tensors of 4 MB; memory may grow by a few tensors."""
    path = tmp_path / "model.safetensors"
    rows = torch.zeros(100, 10_000)
    save_file({f"{i}": rows + i for i in range(24)}, path)
    code = f"""
import torch
from pathlib import Path
from resrope.export.weights import checkpoint, patch, place

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

torch.ones(9).mul(2.0)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: that of the parent is inherited
before = peak()
checkpoint(Path({str(tmp_path)!r}))
place(Path({str(path)!r}), Path({str(tmp_path / "copy")!r}))
patch(Path({str(path)!r}), Path({str(tmp_path / "out")!r}), {{str(i): lambda t: t * 2 for i in range(24)}})
print(peak() - before)
"""
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 1_000 < int(grown) < 40_000  # KiB
    assert torch.equal(load_file(tmp_path / "out")["23"], (rows + 23) * 2)
