import pytest

from resrope.finetune.recipes import PROCESSES, RECIPES


@pytest.mark.parametrize(
    ("name", "length", "steps", "serves"),
    [
        ("llama2-7b-32k", 32768, 50, 32768),
        ("llama2-7b-4k", 4096, 400, 32768),
        ("llama2-13b-16k", 16384, 100, 16384),
        ("llama2-13b-4k", 4096, 400, 16384),
    ],
)
def test_the_papers_numbers(name, length, steps, serves):
    """Appendix C.2: AdamW 2e-5, weight decay 1e-2, 5 % warm-up, batch 1 a GPU, ~100M tokens."""
    run = RECIPES[name]
    recipe = run.recipe
    assert (recipe.length, recipe.steps, recipe.batch, run.serves) == (length, steps, 1, serves)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.warmup) == (2e-5, 1e-2, 0.05)
    assert (recipe.precision, recipe.attention) == ("bf16", "flash_attention_2")
    assert abs(recipe.tokens(PROCESSES) / 100e6 - 1) < 0.02
    assert recipe.accumulation == 15


def test_there_are_four():
    assert len(RECIPES) == 4
