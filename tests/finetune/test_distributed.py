"""Two processes against one, with the configurations that are shipped: the same curve, the same model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resrope.finetune.recipe import Recipe
from resrope.finetune.sharding import check_launch
from resrope.models.verify import verify

ROOT = Path(__file__).parents[2]
RUN = """finetune {model} {out} --method resonance-yarn --factor 4 --text {text} --held-out {held} --length 64
--chunk 16 --steps 4 --save-every 2 --evaluate-every 4 --looks 2 --learning-rate 1e-2 --warmup 0.25 --cpu
--cache {cache} --accumulation {accumulation}"""

# Every process kills itself after the third step.
KILLED = """
import os, signal
from resrope.cli import main
from resrope.finetune.trainer import EndEvaluated
def on_step_end(self, args, state, control, **kwargs):
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
EndEvaluated.on_step_end = on_step_end
main()
"""


def command(folder, out, accumulation):
    where = {"text": folder / "text.txt", "held": folder / "held.txt", "cache": folder / "cache"}
    return RUN.format(model=folder / "model", out=out, accumulation=accumulation, **where).split()


@pytest.fixture(scope="module")
def folder(letters, prose, tmp_path_factory):
    made = tmp_path_factory.mktemp("many")
    (made / "text.txt").write_text(prose(0, 600))
    (made / "held.txt").write_text(prose(1, 600))
    shutil.copytree(letters, made / "model")
    return made


@pytest.fixture(scope="module")
def one(folder):
    run([sys.executable, "-m", "resrope", *command(folder, folder / "one", 2)])
    return folder / "one"


def started(words, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)


def run(words, **environment):
    done = started(words, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def killed(folder, name, config, **environment):
    """As ``launched``, killed after the third step, whose checkpoint is that of the second."""
    (folder / "killed.py").write_text(KILLED)
    done = started(
        [*launch(config), str(folder / "killed.py"), *command(folder, folder / name, 1)], **environment
    )
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr, done.stderr[-3000:]
    assert [p.name for p in (folder / name).glob("checkpoint-*")] == ["checkpoint-2"]


def launch(config):
    """Two processes of this machine's CPUs."""
    words = ["accelerate.commands.launch", "--config_file", f"recipes/accelerate/{config}.yaml"]
    return [sys.executable, "-m", *words, "--num_processes", "2"]


def launched(folder, name, config, *more, **environment):
    words = [*launch(config), "-m", "resrope", *command(folder, folder / name, 1), *more]
    said = run(words, **environment)
    assert said.count("steps 4 × sequences 2 (processes 2 × batch 1 × accumulation 1)") == 1
    return folder / name


def curve(out):
    history = json.loads((out / "record.json").read_text())["history"]
    return torch.tensor([e.get("loss", e.get("eval_loss")) for e in history], dtype=torch.float64)


def close(out, one, sharding):
    assert json.loads((out / "record.json").read_text())["sharding"] == sharding
    assert len(curve(one)) == 6
    assert (curve(out) - curve(one)).abs().max() < 1e-5
    mine, theirs = (load_file(o / "model" / "model.safetensors") for o in (out, one))
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-3) for name in mine)
    assert verify(out / "model").passed


def test_copies(folder, one):
    close(launched(folder, "copies", "copies"), one, "copies")


def test_fsdp(folder, one):
    killed(folder, "fsdp", "fsdp")
    close(launched(folder, "fsdp", "fsdp"), one, "FSDP")


def test_fsdp_in_bfloat16_does_not_round_the_loss(folder):
    """In bfloat16 a loss between 2 and 4 has steps of 0.016."""
    one = folder / "one-bf16"
    run([sys.executable, "-m", "resrope", *command(folder, one, 2), "--precision", "bf16"])
    out = launched(folder, "fsdp-bf16", "fsdp", "--precision", "bf16")
    assert abs(curve(out)[0] - curve(one)[0]) < 4e-3  # before anything is trained: rates are high here
    rounded = curve(out).float().bfloat16().double()
    assert (curve(out) - rounded).abs().max() > 1e-3


@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles its own operators")
def test_zero3_offload(folder, one):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja
    compiled = str(ROOT / "runs" / "extensions")
    where = {"PATH": path, "TORCH_EXTENSIONS_DIR": compiled}
    killed(folder, "zero3", "zero3-offload", **where)
    close(launched(folder, "zero3", "zero3-offload", **where), one, "DeepSpeed ZeRO-3")
    out = launched(folder, "zero3-bf16", "zero3-offload", "--precision", "bf16", **where)
    saved = load_file(out / "model" / "model.safetensors")
    assert any(not torch.equal(w, w.bfloat16().float()) for w in saved.values())  # not the rounded copy


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_weights_of_4_bits_are_not_split(kind, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(ValueError, match=rf"copies of the model .*copies.yaml\), got {kind}"):
        check_launch(Recipe(length=512, steps=1, tuning="qlora"))
    check_launch(Recipe(length=512, steps=1, tuning="lora"))
