import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.finetune.conftest import RECIPE, stock_loss

import resrope
from resrope.finetune.run import finetune
from resrope.models.verify import verify


def test_lora_leaves_its_adapter_and_a_whole_model(job, letters):
    record = finetune(replace(job, recipe=replace(RECIPE, tuning="lora", lora_rank=4, steps=4)))
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    assert math.isclose(losses[0], stock_loss(letters, job, record), rel_tol=1e-4)
    adapter = load_file(job.out / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-2] for name in adapter} == {"lora_A", "lora_B"}
    assert not any("lm_head" in name or "embed" in name for name in adapter)
    before = resrope.load(letters, dtype=torch.float32).state_dict()
    after = resrope.load(job.out / "model", dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if "_proj.weight" in n}
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    wanted = before[f"{name}.weight"] + 32 / 4 * b @ a
    assert torch.allclose(after[f"{name}.weight"], wanted, atol=1e-6)
    assert verify(job.out / "model").passed


def test_lora_is_not_added_to_weights_that_changed_meanwhile(job, letters, tmp_path):
    source = shutil.copytree(letters, tmp_path / "source")
    recipe = replace(RECIPE, tuning="lora", lora_rank=4, steps=2, accumulation=1)

    def change(tick):
        config = source / "config.json"
        config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")

    with pytest.raises(ValueError, match="other weights than when training began"):
        finetune(replace(job, model=str(source), recipe=recipe), tell=change)
    assert (job.out / "adapter" / "adapter_model.safetensors").is_file()
    assert not (job.out / "model").exists()


def test_qlora_trains_beside_weights_of_4_bits(job, letters):
    pytest.importorskip("bitsandbytes")
    record = finetune(replace(job, recipe=replace(RECIPE, tuning="qlora", lora_rank=4, steps=4)))
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    looks = [entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    assert looks[-1] < looks[0]
    before = resrope.load(letters, dtype=torch.float32).state_dict()
    after = resrope.load(job.out / "model", dtype=torch.float32).state_dict()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )
    assert verify(job.out / "model").passed


def test_gradients_beside_4_bit_weights_stay_right_after_a_look(job, letters):
    """A CPU repacks them for inference, and gives wrong gradients ever after."""
    pytest.importorskip("bitsandbytes")
    from resrope.finetune.opened import open_model

    recipe = replace(RECIPE, tuning="qlora", lora_rank=4, length=32)
    model, _ = open_model(letters, recipe)
    ids = torch.arange(32)[None] * 7 % 256

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    first = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids, labels=ids)
    again = gradients()
    assert first.keys() == again.keys() != set()
    assert all(torch.allclose(first[n], again[n], atol=1e-7) for n in first)
    assert max(float(g.abs().max()) for g in first.values()) > 1e-3
