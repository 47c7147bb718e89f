import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.finetune.conftest import RECIPE

import resrope
from resrope.finetune.run import finetune
from resrope.finetune.trainer import NotFiniteError, Rhythm
from resrope.models.config import rope_from_config
from resrope.models.verify import verify

# Kills itself with SIGKILL at a named place; where it is not reached, the run ends.
KILLED = """
import os, pickle, signal, sys
from resrope.finetune import run, saved, trainer
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
job, where = pickle.load(open(sys.argv[1], "rb"))
if where == "checkpoint":
    trainer.LongTrainer._save_rng_state = die
if where == "result":
    saved.settle = die
if where == "record":
    run._described = die
tell = (lambda tick: die() if tick.step == 3 else None) if where == "step" else (lambda tick: None)
run.finetune(job, tell=tell)
"""


def killed_run(job):
    """With as many threads as here, whatever tests before have set: other sums round otherwise."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(torch.get_num_threads()))
    command = [sys.executable, "-c", KILLED, str(job)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **threads})


def history(record):
    """Losses, gradients, rates and looks, without the clock."""
    timing = ("seconds", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{k: v for k, v in entry.items() if k not in timing} for entry in record["history"]]


def test_a_run_leaves_a_model_that_stock_loaders_open(job):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines, ticks = [], []
    record = finetune(job, announce=lines.append, tell=ticks.append)
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    looks = {entry["step"]: entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry}
    assert [t.step for t in ticks] == [1, 2, 3, 4, 5, 6]
    assert losses == [t.loss for t in ticks]
    assert losses[-1] < losses[0] - 0.5
    assert list(looks) == [0, 4, 6]
    assert looks[6] < looks[0] - 0.5
    assert " tokens left over at their ends (" in lines[0]
    assert lines[1].startswith(
        "steps 6 × sequences 2 (processes 1 × batch 1 × accumulation 2) × tokens 64: 768 tokens"
    )

    stock = AutoModelForCausalLM.from_pretrained(job.out / "model")
    assert AutoTokenizer.from_pretrained(job.out / "model")("king").input_ids
    spec = next(iter(rope_from_config(stock.config.to_dict()).specs.values()))
    assert spec.resonance
    assert spec.scaling.factor == 4
    assert stock.config.max_position_embeddings == 2048
    inv_freq = torch.tensor(resrope.frequencies(spec).inv_freq, dtype=torch.float32)
    assert torch.allclose(stock.model.rotary_emb.inv_freq, inv_freq, rtol=1e-6)
    assert verify(job.out / "model").passed
    assert record["verified"]["transformers-5"] is None
    assert not list(job.out.glob("checkpoint-*"))
    held = job.cache / record["held_out"]["key"] / "chunks.arrow"
    assert held.is_file()


def test_the_held_out_loss_is_that_of_the_saved_model(job):
    """By transformers' own forward and loss, chunk by chunk."""
    import datasets

    record = finetune(job)
    rows = datasets.Dataset.from_file(str(job.cache / record["held_out"]["key"] / "chunks.arrow"))
    picked = [i * len(rows) // 3 for i in range(3)]
    model = resrope.load(job.out / "model", dtype=torch.float32)
    with torch.no_grad():
        ids = [torch.tensor(rows[i]["input_ids"])[None] for i in picked]
        losses = [float(model(input_ids=x, labels=x).loss) for x in ids]
    assert math.isclose(record["history"][-1]["eval_loss"], sum(losses) / 3, rel_tol=1e-5)


def test_killed_anywhere_it_ends_with_the_same_bits(job, tmp_path):
    import pickle

    whole = finetune(job)
    killed = replace(job, out=tmp_path / "killed")
    for where in ("step", "checkpoint", "result", "record"):
        (tmp_path / "job").write_bytes(pickle.dumps((killed, where)))
        done = killed_run(tmp_path / "job")
        assert done.returncode == -signal.SIGKILL, (where, done.stderr.decode()[-2000:])
        assert not (killed.out / "record.json").exists()
    record = finetune(killed)
    assert history(record) == history(whole)
    mine, theirs = (load_file(o / "model" / "model.safetensors") for o in (killed.out, job.out))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [start["from_step"] for start in record["starts"]] == [0, 2, 2, 6, 6]


def test_killed_in_lora_it_ends_with_the_same_bits(job, tmp_path):
    import pickle

    job = replace(job, recipe=replace(RECIPE, tuning="lora", lora_rank=4, steps=4))
    whole = finetune(job)
    killed = replace(job, out=tmp_path / "killed")
    (tmp_path / "job").write_bytes(pickle.dumps((killed, "step")))
    done = killed_run(tmp_path / "job")
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert history(finetune(killed)) == history(whole)
    mine, theirs = (load_file(o / "adapter" / "adapter_model.safetensors") for o in (killed.out, job.out))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_copies_hold_their_gradients_once(job, letters):
    from resrope.finetune.opened import open_model
    from resrope.finetune.trainer import LongTrainer, arguments

    model, _ = open_model(letters, RECIPE)
    args = arguments(RECIPE, job.out, Rhythm(), held_out=False, resumed=False, cpu=True)
    assert LongTrainer(model=model, args=args).accelerator.ddp_handler.gradient_as_bucket_view


def test_loggers_that_are_not_there():
    with pytest.raises(ValueError, match="report_to must be one of tensorboard, wandb, mlflow, got 'paper'"):
        Rhythm(report_to=("paper",))
    with pytest.raises(ImportError, match="report_to wandb needs its package: pip install wandb"):
        Rhythm(report_to=("wandb",))
    with pytest.raises(ValueError, match="looks must be an integer >= 1"):
        Rhythm(looks=0)


def test_tensorboard_is_the_trainers_own_and_stays(job):
    finetune(replace(job, rhythm=replace(job.rhythm, report_to=("tensorboard",))))
    assert list((job.out / "runs").rglob("events.out.tfevents.*"))


def test_finished_it_is_not_done_again(job):
    lines = []
    first = finetune(job)
    before = (job.out / "model" / "model.safetensors").stat().st_mtime_ns
    assert finetune(job, announce=lines.append) == json.loads(json.dumps(first))
    assert "finished already" in lines[-1]
    assert (job.out / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_other_settings_is_left_alone(job, prose):
    finetune(job)
    with pytest.raises(ValueError, match=r"other settings: learning_rate 0.01 \(asked for 0.1\)"):
        finetune(replace(job, recipe=replace(RECIPE, learning_rate=0.1)))
    (job.out.parent / "more.txt").write_text(prose(77))
    with pytest.raises(ValueError, match="other settings: chunks"):
        finetune(replace(job, texts=[*job.texts, str(job.out.parent / "more.txt")]))


def test_weight_decay_is_really_applied(job):
    """With a gradient of nearly nothing AdamW's weights shrink by learning_rate · weight_decay a step."""
    sums = {}
    for decay in (0.0, 0.5):
        out = job.out.with_name(f"decay{decay}")
        finetune(replace(job, out=out, recipe=replace(RECIPE, weight_decay=decay, steps=2)))
        model = load_file(out / "model" / "model.safetensors")
        sums[decay] = {k: float(v.abs().sum()) for k, v in model.items()}
    assert (
        sums[0.5]["model.layers.0.mlp.up_proj.weight"]
        < 0.999 * sums[0.0]["model.layers.0.mlp.up_proj.weight"]
    )
    assert math.isclose(sums[0.5]["model.norm.weight"], sums[0.0]["model.norm.weight"], rel_tol=1e-3)


def test_a_loss_that_is_no_number_stops_before_the_weights(job, monkeypatch):
    from resrope.finetune import trainer

    plain = trainer.Trainer.training_step

    def broken(self, *args, **kwargs):
        loss = plain(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(trainer.Trainer, "training_step", broken)
    with pytest.raises(
        NotFiniteError, match=r"step 4: the loss is nan; the last good checkpoint is .*checkpoint-2"
    ):
        finetune(job)
    assert not (job.out / "model").exists()
    weights = load_file(job.out / "checkpoint-2" / "model.safetensors")
    assert all(torch.isfinite(w).all() for w in weights.values())
    monkeypatch.undo()
    assert finetune(job)["history"][-1]["step"] == 6


def test_a_rate_that_breaks_it_is_said(job):
    with pytest.raises(NotFiniteError, match=r"is (nan|inf)"):
        finetune(replace(job, recipe=replace(RECIPE, learning_rate=1e18, steps=12), repeat=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 200}, r"steps of 2 sequences need 400: that is \d+\.\d\d epochs; more text"),
        ({"length": 4096}, r"no chunk of 4096 tokens: the longest of 3 has \d+"),
        ({"method": "dynamic-ntk", "parameters": {}}, "another table for every length of text"),
        (
            {"method": "yarn", "parameters": {"factor": 1.0}, "length": 1024},
            "length must be <= 512, the tokens",
        ),
        ({"method": "yarn", "parameters": {}}, "factor"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(job, changes, words):
    with pytest.raises(ValueError, match=words):
        finetune(replace(job, recipe=replace(RECIPE, **changes), repeat="steps" not in changes))
    assert not job.out.exists()


def test_a_precision_that_is_refused_late_leaves_nothing(job, monkeypatch):
    from resrope.finetune import run

    def refuse(*args, **kwargs):
        raise ValueError("no bf16 here")

    monkeypatch.setattr(run, "arguments", refuse)
    with pytest.raises(ValueError, match="no bf16 here"):
        finetune(job)
    assert not job.out.exists()


def test_what_does_not_fit_is_refused_before_anything_is_loaded(job, monkeypatch):
    from resrope.finetune import fits, run

    monkeypatch.setattr(fits, "available", lambda device: fits.BESIDE + 1000)
    monkeypatch.setattr(run, "open_model", None)
    with pytest.raises(
        ValueError, match=r"a step needs about .* GiB, .* GiB are free: nothing smaller would fit"
    ):
        finetune(job)
    assert not job.out.exists()


def test_held_out_must_not_be_trained_on(job, prose):
    copy = job.out.parent / "copy.txt"
    copy.write_text(prose(1))
    with pytest.raises(ValueError, match=r"copy.txt is held out, but it is 1.txt of the training texts"):
        finetune(replace(job, held_out=[str(copy)]))


def test_a_tokenizer_of_another_model_is_refused(job, tmp_path, letters):

    other = tmp_path / "other"
    shutil.copytree(letters, other)
    config = json.loads((other / "config.json").read_text())
    model = resrope.load(letters, dtype=torch.float32)
    model.resize_token_embeddings(40)
    shutil.rmtree(other)
    model.save_pretrained(other)
    for file in letters.glob("tokenizer*"):
        shutil.copy(file, other)
    assert config["vocab_size"] == 256
    with pytest.raises(ValueError, match=r"makes token \d+, but the model has embeddings for 40"):
        finetune(replace(job, model=str(other)))


def test_a_table_that_is_there_is_trained_as_it_is(job, tmp_path):
    first = finetune(job)
    again = finetune(
        replace(
            job,
            model=str(job.out / "model"),
            out=tmp_path / "more",
            recipe=replace(RECIPE, method=None, parameters={}, steps=2),
        )
    )
    assert again["method"] == first["method"] == "resonance-yarn"
    with pytest.raises(ValueError, match="the model already has resonance-yarn"):
        finetune(
            replace(
                job,
                model=str(job.out / "model"),
                out=tmp_path / "yarn",
                recipe=replace(RECIPE, method="yarn", parameters={"factor": 8}),
            )
        )
    other = replace(RECIPE, method="yarn", parameters={"factor": 8}, replace_scaling=True, steps=2)
    changed = finetune(replace(job, model=str(job.out / "model"), out=tmp_path / "other", recipe=other))
    assert changed["method"] == "yarn"
    assert verify(tmp_path / "other" / "model").length == 4096


def test_one_step_is_a_step(job, letters):
    finetune(replace(job, recipe=replace(RECIPE, steps=1)))
    before = resrope.load(letters, dtype=torch.float32).state_dict()
    after = resrope.load(job.out / "model", dtype=torch.float32).state_dict()
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )
