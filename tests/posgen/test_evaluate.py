import numpy as np
import pytest
import torch

from resrope.posgen.evaluate import accuracies, evaluate, regions, run_freely
from resrope.posgen.positions import Where
from resrope.posgen.presets import preset
from resrope.posgen.tasks import Task, generate


class Oracle:
    """Knows the rule; answers wrongly (one too high) where ``wrong`` says so."""

    def __init__(self, task, wrong=lambda position: False):
        self.task, self.wrong = task, wrong

    def __call__(self, tokens, where):
        rows, seq = tokens.shape
        logits = torch.zeros(rows, seq, self.task.modulus)
        for position in range(self.task.prefix_length, seq + 1):
            right = sum(tokens[:, s] for s in self.task.sources(position)) % self.task.modulus
            answer = (right + self.wrong(position)) % self.task.modulus
            logits[torch.arange(rows), position - 1, answer] = 9.0
        return logits


TASK = Task(name="semi-recursive")
TOKENS = torch.from_numpy(generate(TASK, np.random.default_rng(0).integers(0, 17, (70, 4)), 20)).long()


def where(length):
    """Nothing of positions is read: the oracle counts."""
    return Where(torch.empty(length, 0))


def test_a_perfect_model():
    seen = evaluate(Oracle(TASK), where, TOKENS, 4)
    assert seen.correct.tolist() == [0] * 4 + [70] * 16
    assert seen.loss[4:].max() < 0.003
    assert accuracies(seen, TASK, 10)["ood"] == 1.0


def test_errors_are_counted_where_they_are():
    seen = evaluate(Oracle(TASK, wrong=lambda at: at in (5, 12)), where, TOKENS, 4)
    assert np.flatnonzero(seen.correct[4:] == 0).tolist() == [1, 8]
    found = accuracies(seen, TASK, 10)
    assert found["in_distribution"] == pytest.approx(5 / 6)
    assert found["ood"] == pytest.approx(9 / 10)
    # l = 5 is odd: the pointer stood still, a rule on four tokens gives it, as at 4, 6, 7, 9; x_12 follows
    # from the last eight tokens alone.
    assert found["in_distribution_near"] == pytest.approx(4 / 5)
    assert found["in_distribution_chained"] == 1.0
    assert found["ood_near"] == 1.0
    assert found["ood_chained"] == pytest.approx(4 / 5)
    assert found["ood_far"] is None


def test_teacher_forcing_forgives_what_free_running_does_not():
    wrong_once = Oracle(TASK, wrong=lambda at: at == 6)
    forced = evaluate(wrong_once, where, TOKENS, 4)
    free = run_freely(wrong_once, where, TOKENS, 4)
    assert forced.correct.sum() == 70 * 15
    assert free.correct[:6].tolist() == [0, 0, 0, 0, 70, 70]
    assert free.correct[6] == 0
    assert free.correct[7] == 0  # x_7 depends on x_6
    assert np.array_equal(run_freely(Oracle(TASK), where, TOKENS, 4).correct[4:], [70] * 16)


def test_regions_partition_the_generated_positions():
    for name in ("recursive", "cot", "semi-recursive"):
        masks = regions(Task(name=name), 64, 256)
        assert masks["in_distribution"].sum() == 60
        assert masks["ood"].sum() == 192
        for region in ("in_distribution", "ood"):
            parts = sum(masks[f"{region}_{kind}"].astype(int) for kind in ("near", "chained", "far"))
            assert np.array_equal(parts, masks[region].astype(int))
    assert accuracies(evaluate(Oracle(TASK), where, TOKENS, 4), Task(name="cot"), 10)["ood_far"] is None


def test_a_model_that_learned_beats_chance_by_far():
    """One short real training run: the whole chain from task to accuracy."""
    from resrope.posgen.record import Cell
    from resrope.posgen.work import prepared

    settings = preset("quick").override(
        {"modulus": 5, "d_model": 64, "d_ff": 128, "epochs": 30, "train_rows": 500, "validation_rows": 50}
        | {"test_rows": 50, "train_length": 16, "test_length": 32, "learning_rate": 4e-3}
    )
    work = prepared(Cell(task="recursive", method="rope", seed=0), settings)
    list(work.trainer.losses(480))
    seen = evaluate(work.trainer.model, work.where, work.test, 4)
    found = accuracies(seen, work.task, 16)
    assert found["in_distribution"] > 0.6
