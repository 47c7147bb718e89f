import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resrope.longtext import attention, memory
from resrope.longtext.memory import available, check_fits, needed

# Growth of the resident set; writing 5 to clear_refs sets its peak back to what it is now.
READ = """
import ctypes, gc, pathlib, sys
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from resrope.longtext import attention, memory
from resrope.longtext.forward import token_losses

def resident(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

shape = {"hidden_size": 64, "num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 256}
rest = {"num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 30000}
model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, **rest)).eval()
for attn in (attention.register(), "sdpa"):
    model.set_attn_implementation(attn)
    token_losses(model, range(40), chunk=20)
    estimate = memory.needed(model, 192, chunk=32)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    token_losses(model, range(192), chunk=32)
    print(estimate / (resident("VmHWM") - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_the_estimate_is_near_the_measured_peak():
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    found = [float(line) for line in done.stdout.split()]
    assert len(found) == 2
    assert all(0.75 < ratio < 1.5 for ratio in found), found


def grown(model, shorter, longer, **options):
    return needed(model, longer, **options) - needed(model, shorter, **options)


def test_a_token_more_takes_its_keys_and_values(tiny):
    """Two layers of keys and values: 2 heads of 16 float32 each."""
    model = tiny("llama")
    model.set_attn_implementation(attention.register())
    token = 2 * 16 * 4
    assert grown(model, 10_000, 20_000, chunk=64) == pytest.approx(memory._HOLES * 10_000 * 2 * 2 * token)
    model.bfloat16()
    assert grown(model, 10_000, 20_000, chunk=64) == pytest.approx(memory._HOLES * 10_000 * 2 * 2 * token / 2)


def test_masks_and_repeated_heads_are_counted_where_they_are_made(tiny):
    model, grows = tiny("llama"), {}
    for attn in (attention.register(), "sdpa", "eager"):
        model.set_attn_implementation(attn)
        grows[attn] = grown(model, 10_000, 10_001, chunk=64) / memory._HOLES
    keys_values, mask = 2 * (2 * 16 * 4), 64 * (1 + 4)
    assert grows["sdpa"] == pytest.approx(2 * keys_values + mask + 2 * keys_values, abs=1)
    assert grows["eager"] == pytest.approx(grows["sdpa"] + 2 * 4 * 64 * 4, abs=1), "scores of 4 heads, twice"
    assert grows[attention.NAME] < grows["sdpa"]


def test_a_sliding_window_is_bounded(tiny):
    full = ["full_attention", "full_attention"]
    half = tiny("gemma3_text", sliding_window=32)
    whole = tiny("gemma3_text", layer_types=full)
    for model in (half, whole):
        model.set_attn_implementation(attention.register())
    token = 2 * 16 * 4
    assert grown(half, 10_000, 20_000, chunk=64) == pytest.approx(memory._HOLES * 10_000 * 2 * token)
    assert grown(whole, 10_000, 20_000, chunk=64) == pytest.approx(memory._HOLES * 10_000 * 4 * token)
    sliding = tiny("phi3", sliding_window=32)
    assert needed(sliding, 10_000, chunk=64) == needed(sliding, 20_000, chunk=64)


def test_latent_attention_counts_what_is_cached_and_what_one_layer_makes_of_it(tiny):
    """deepseek_v3 caches 16 + 16 numbers a token, and makes keys of 32 and values of 16 in 4 heads."""
    model = tiny("deepseek_v3")
    model.set_attn_implementation(attention.register())
    projected, keys, padded = 4 * (16 + 16), 4 * 32, 4 * 32
    wanted = 4 * (2 * (16 + 16) + projected + keys + padded)
    assert grown(model, 10_000, 20_000, chunk=64) == pytest.approx(memory._HOLES * 10_000 * wanted)


def test_only_the_rows_that_are_kept_have_logits(tiny):
    model = tiny("llama", vocab_size=30_000)
    assert needed(model, 1000, chunk=512) - needed(model, 1000, chunk=512, kept_rows=1) > 500 * 30_000 * 4
    assert needed(model, 1000, chunk=64) < needed(model, 1000, chunk=512)
    assert needed(model, 100, chunk=100) == needed(model, 100, chunk=512)


def test_what_fits_passes(tiny, monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(memory, "available", lambda device: needed(model, 4096, chunk=512))
    check_fits(model, 4096, chunk=512)


def test_what_does_not_fit_is_told_what_would(tiny, monkeypatch):
    model = tiny("llama", num_key_value_heads=4, head_dim=1024)
    free = needed(model, 20_600, chunk=512)
    monkeypatch.setattr(memory, "available", lambda device: free)
    with pytest.raises(ValueError, match="need about") as caught:
        check_fits(model, 32_768, chunk=512)
    wanted, free_gib = (f"{n / 2**30:.3g}" for n in (needed(model, 32_768, chunk=512), free))
    assert str(caught.value) == (
        f"32768 tokens need about {wanted} GiB beside the model's weights, {free_gib} GiB are free: "
        "20480 tokens would fit (or a smaller --chunk, --dtype bfloat16)"
    )
    model.bfloat16()
    free //= 2
    with pytest.raises(ValueError, match=re.escape("would fit (or a smaller --chunk)")):
        check_fits(model, 32_768, chunk=512)


@pytest.mark.parametrize(("length", "share"), [(1000, 0.3), (1024, 0.99), (5000, 0.3), (5000, 0.99)])
def test_the_suggestion_is_the_longest_multiple_that_fits(tiny, monkeypatch, length, share):
    model = tiny("llama")
    takes = memory._appetite(model).bytes
    free = round(takes(length, 64) * share)
    monkeypatch.setattr(memory, "available", lambda device: free)
    fitting = [n for n in range(512, length, 512) if takes(n, 64) <= free]
    best = str(max(fitting)) if fitting else "fewer than 512"
    with pytest.raises(ValueError, match=f": {best} tokens would fit"):
        check_fits(model, length, chunk=64)


def machine(root, available, groups, membership):
    """A Linux machine's files: ``available`` kB, and groups as path -> (limit, usage, droppable)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available} kB\n")
    (root / "proc/self/cgroup").write_text(membership)
    for path, (limit, usage, idle) in groups.items():
        one = "memory/" in f"{path}/"
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("memory.limit_in_bytes" if one else "memory.max")).write_text(f"{limit}\n")
        (folder / ("memory.usage_in_bytes" if one else "memory.current")).write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{'total_' * one}inactive_file {idle}\n")


@pytest.mark.parametrize(
    ("groups", "membership", "wanted"),
    [
        ({}, "", 1024_000),
        ({"": ("max", 7, 0)}, "0::/\n", 1024_000),
        ({"": (500_000, 300_000, 100_000)}, "0::/\n", 300_000),
        ({"a/b": ("max", 1, 0), "a": (400_000, 100_000, 0)}, "0::/a/b\n", 300_000),
        ({"": (500_000, 300_000, 0)}, "0::/of/the/host\n", 200_000),
        ({"": (100, 300, 0)}, "0::/\n", 0),
        ({"": (9_000_000_000, 0, 0)}, "0::/\n", 1024_000),
        ({"memory/x": (250_000, 50_000, 7)}, "3:cpu,cpuacct:/x\n2:memory:/x\n0::/\n", 200_007),
        ({"memory": (2**63 - 4096, 50_000, 7)}, "2:memory:/docker/abc\n", 1024_000),
        ({"memory": (60_000, 50_000, 7)}, "2:memory:/docker/abc\n", 10_007),
    ],
)
def test_main_memory_is_what_the_machine_and_its_groups_leave(tmp_path, groups, membership, wanted):
    machine(tmp_path, 1000, groups, membership)
    assert memory._main_memory(tmp_path) == wanted


def test_without_proc_it_is_what_psutil_says(tmp_path):
    import psutil

    said = psutil.virtual_memory().available
    assert memory._main_memory(tmp_path) == pytest.approx(said, rel=0.25)


def test_this_machine_has_memory():
    free = available(torch.device("cpu"))
    assert 2**20 < free < 2**50
    info = Path("/proc/meminfo")
    if info.exists():
        total = int(re.search(r"MemTotal:\s*(\d+)", info.read_text())[1]) * 1024
        assert free < total
