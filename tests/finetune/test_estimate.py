import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from resrope.finetune import fits
from resrope.finetune.estimate import estimate, loaded
from resrope.finetune.fits import check_fits, check_main_memory, grid, rows
from resrope.finetune.recipe import Recipe

CONFIG = LlamaConfig(
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=16384,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
# Where it is what is said that counts: an estimate takes a step, whose time grows with the layers.
SMALL = LlamaConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 2, "vocab_size": 1024})
RECIPE = Recipe(length=1024, steps=3, method="yarn", parameters={"factor": 4}, accumulation=2)
MiB = 2**20
# Three updates of the real thing, and the most memory they took beside what was there before.
MEASURED = """
import json, pickle, sys, torch
from resrope.finetune.heap import give_back
from resrope.finetune.opened import open_model
def status(name):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[name].split()[0]) * 1024
from contextlib import nullcontext
folder, recipe, copies = pickle.load(open(sys.argv[1], "rb"))
if copies:
    where = "file://" + folder + "/group"
    torch.distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
give_back()
def train(folder, length):
    ids = torch.zeros((recipe.batch, length), dtype=torch.int64)
    model, _ = open_model(folder, recipe)
    if copies:  # a group of one has the buckets of a group
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    open("/proc/self/clear_refs", "w").write("5")
    for _ in range(2):
        for i in range(recipe.accumulation):
            last = not copies or i + 1 == recipe.accumulation
            with nullcontext() if last else model.no_sync():
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
train(folder + "/small", 64)  # libraries and their threads
before = status("VmRSS")
train(folder + "/model", recipe.length)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checkpointing": False, "accumulation": 1},
        {"tuning": "lora", "batch": 2, "length": 512},
        {"copies": True},
    ],
    ids=str,
)
def test_the_estimate_is_the_measured_peak(changes, tmp_path):
    import pickle

    copies = changes.pop("copies", False)
    recipe = replace(RECIPE, **changes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(tmp_path / "model")
    small = LlamaConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 1, "vocab_size": 64})
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path / "small")
    (tmp_path / "job").write_bytes(pickle.dumps((str(tmp_path), recipe, copies)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "job")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured, wanted = json.loads(done.stdout), estimate(CONFIG, recipe).peak(recipe.accumulation, 1 + copies)
    assert abs(wanted - measured) < 0.1 * measured + 32 * MiB, (wanted / MiB, measured / MiB)


def test_the_parts_of_a_full_step():
    found = estimate(CONFIG, RECIPE)
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(CONFIG).parameters())
    assert found.weights == loaded(CONFIG, RECIPE)
    assert abs(found.weights - 4 * weights) < MiB  # and the rotary table
    assert found.gradients == 4 * weights
    assert found.moments == 8 * weights
    layer = 512 * (512 + 256 + 256 + 512) + 3 * 512 * 1536
    assert abs(found.layer - 4 * layer) < 8 * 1024
    # Forward, backward twice that, the layers' forward again but for the last product, which nobody needs.
    products = 1024 * 2 * (6 * (layer * 4 - 512 * 1536) + 16384 * 512 * 3)
    attention = 6 * 1024**2 * 512 * (2 + 5)
    assert abs(found.flops / (products + attention) - 1) < 0.01


def test_activations_grow_with_the_length_and_logits_with_the_chunk_alone():
    short, long = (estimate(CONFIG, replace(RECIPE, length=n)).activations for n in (1024, 8192))
    assert 7 < long / short < 8
    words = LlamaConfig(**{**CONFIG.to_dict(), "vocab_size": 65536})
    whole, chunked = (estimate(words, replace(RECIPE, length=8192, chunk=n)).activations for n in (8192, 512))
    assert chunked < long + 512 * 65536 * 4
    assert whole > 8192 * 65536 * 4


def test_shards_split_what_can_be_split():
    found = estimate(CONFIG, RECIPE)
    fixed = found.weights + found.gradients + found.moments
    assert found.peak(processes=4, sharded=True) == fixed // 4 + found.activations + 2 * found.layer


def test_qlora_counts_four_bits():
    full, four = (loaded(CONFIG, replace(RECIPE, tuning=t)) for t in ("lora", "qlora"))
    linear = 6 * (512 * (512 + 256 + 256 + 512) + 3 * 512 * 1536)
    assert abs((full - four) / (linear * (4 - 4.127 / 8)) - 1) < 0.01


def test_qlora_keeps_the_rest_in_float32():
    recipe = replace(RECIPE, precision="bf16")
    full, four = (loaded(CONFIG, replace(recipe, tuning=t)) for t in ("lora", "qlora"))
    linear = 6 * (512 * (512 + 256 + 256 + 512) + 3 * 512 * 1536)
    rest = 16384 * 512 + 13 * 512
    assert abs(four - full - 2 * rest + linear * (2 - 4.127 / 8)) < MiB


def test_main_memory_before_and_after_the_steps(folder, monkeypatch):
    whole = loaded(SMALL, RECIPE)
    monkeypatch.setattr(fits, "available", lambda device: 2 * whole + fits.BESIDE)
    check_main_memory(folder, RECIPE, here=2)
    with pytest.raises(ValueError, match=r"load 3 × 0\.\d+ GiB into main memory, .* are free: 2 would fit"):
        check_main_memory(folder, RECIPE, here=3)
    four = replace(RECIPE, tuning="qlora")
    check_main_memory(folder, four, here=2)
    monkeypatch.setattr(fits, "available", lambda device: whole - MiB + fits.BESIDE)
    with pytest.raises(ValueError, match=r"LoRA is added to weights of .* are free"):
        check_main_memory(folder, four, here=1)


@pytest.fixture
def folder(tmp_path):
    SMALL.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "share", "words"),
    [
        ({"checkpointing": False}, 0.9, r"are free: --checkpointing \(0\.\d+ GiB\)"),
        (
            {"batch": 4},
            0.9,
            r"--batch 1 --accumulation 8 \(.* GiB\), or --tuning lora \(.* GiB\), or --length",
        ),
        ({"tuning": "lora", "length": 4096}, 0.95, r"are free: --length 3584 would fit"),
        ({}, 0.001, "nothing smaller would fit"),
    ],
)
def test_what_would_fit_is_said(folder, monkeypatch, changes, share, words):
    recipe = replace(RECIPE, **changes)
    peak = estimate(SMALL, recipe).peak(recipe.accumulation)
    monkeypatch.setattr(fits, "available", lambda device: int(share * peak) + fits.BESIDE)
    with pytest.raises(ValueError, match=words):
        check_fits(folder, recipe, cpu=True)
    monkeypatch.setattr(fits, "available", lambda device: peak + fits.BESIDE)
    check_fits(folder, recipe, cpu=True)
    with pytest.raises(ValueError, match="are free"):
        check_fits(folder, recipe, processes=2, here=2, cpu=True)


def test_a_length_that_is_said_to_fit_fits(folder, monkeypatch):
    recipe = replace(RECIPE, length=8192)
    free = estimate(SMALL, replace(RECIPE, length=5000)).peak(2)
    monkeypatch.setattr(fits, "available", lambda device: free + fits.BESIDE)
    with pytest.raises(ValueError, match=r"--length \d+ would fit") as refused:
        check_fits(folder, recipe, cpu=True)
    length = int(re.search(r"--length (\d+)", str(refused.value))[1])
    assert 4000 < length <= 5000
    check_fits(folder, replace(recipe, length=length), cpu=True)


def test_the_table(folder):
    found = rows(folder, RECIPE, torch.device("cpu"))
    assert [(r.tuning, r.checkpointing) for r in found][:3] == [
        ("full", True),
        ("full", False),
        ("lora", True),
    ]
    table = grid("model", RECIPE, found, 2**40)
    assert len(table.rows) == 6
    assert not any("!" in cell for row in table.rows for cell in row)
    assert all("!" in cell for row in grid("model", RECIPE, found, 1).rows for cell in row[4:8])
    assert all(0 < r.seconds < 100 for r in found)
