import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resrope.posgen.embeddings import embedding
from resrope.posgen.presets import preset
from resrope.posgen.splits import make_splits
from resrope.posgen.train import (
    Trainer,
    batch_rows,
    learning_rate,
    look_steps,
    steps_per_epoch,
    total_steps,
)


def trainer(settings, seed=3):
    splits = make_splits(settings.task("cot"), **settings.split_sizes(), seed=seed)
    position = embedding("resonance-yarn", settings, seed)
    return Trainer(settings, seed, torch.from_numpy(splits.train).long(), position)


def test_one_cycle_matches_torch():
    settings = preset("quick").override({"train_rows": 320, "epochs": 10})
    total = total_steps(settings)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    peak = settings.learning_rate
    rise = settings.warmup * total
    # torch ends its phases one step earlier: at rise - 1 and total - 1. With both stretched by one step
    # the two schedules are the same.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=total + 1, pct_start=(rise + 1) / (total + 1), final_div_factor=1e12
    )
    for step in range(total):
        assert learning_rate(step, settings) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert learning_rate(0, settings) == pytest.approx(peak / 25)
    assert learning_rate(round(rise), settings) == pytest.approx(peak)
    assert learning_rate(round(rise / 2), settings) == pytest.approx(peak * (1 + 1 / 25) / 2)
    assert learning_rate(round((rise + total) / 2), settings) == pytest.approx(peak / 2)
    assert learning_rate(total, settings) == pytest.approx(0, abs=1e-12)
    assert learning_rate(7, settings.override({"schedule": "constant"})) == peak


def test_every_epoch_sees_every_row_once_in_its_own_order(tiny):
    per_epoch = steps_per_epoch(tiny)
    assert per_epoch == 4
    assert total_steps(tiny) == 12
    epochs = [torch.cat([batch_rows(e * per_epoch + i, tiny, 0) for i in range(per_epoch)]) for e in range(3)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(60))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(batch_rows(0, tiny, 0), batch_rows(0, tiny, 1))


def test_looks_are_even_and_end_at_the_end(tiny):
    assert look_steps(tiny) == [3, 6, 9, 12]
    assert look_steps(tiny.override({"looks": 100})) == list(range(1, 13))


def test_a_step_is_adamw_on_the_mean_loss_of_generated_tokens(tiny):
    """Against plain torch on the same batch, dropout off."""
    settings = tiny.override({"dropout": 0.0})
    ours, reference = trainer(settings), trainer(settings)
    first = next(ours.losses(1))
    optimizer = torch.optim.AdamW(
        reference.model.parameters(), lr=learning_rate(0, settings), weight_decay=1e-2
    )
    batch = reference.tokens[batch_rows(0, settings, 3)]
    logits = reference.model(batch[:, :-1], reference.position.at(torch.arange(11)))
    losses = [F.cross_entropy(logits[:, at - 1], batch[:, at]) for at in range(4, 12)]
    loss = torch.stack(losses).mean()
    loss.backward()
    optimizer.step()
    assert first == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(ours.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_restored_training_goes_on_bit_for_bit(tiny):
    whole, begun, resumed = trainer(tiny), trainer(tiny), trainer(tiny)
    expected = list(whole.losses(12))
    losses = list(begun.losses(5))
    state = {name: tensor.clone() for name, tensor in begun.state().items()}
    resumed.restore(state, 5)
    losses += list(resumed.losses(12))
    assert losses == expected
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_seeds_differ_and_learning_happens(tiny):
    losses = {seed: list(trainer(tiny.override({"epochs": 20}), seed).losses(80)) for seed in (0, 1)}
    assert losses[0] != losses[1]
    for values in losses.values():
        assert np.mean(values[-5:]) < np.mean(values[:5]) - 0.3
