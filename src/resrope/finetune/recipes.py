"""The paper's four fine-tunings (Section 6.2 and Appendix C.2 of arXiv 2403.00071)."""

from __future__ import annotations

from dataclasses import dataclass

from resrope.finetune.recipe import Recipe

# What every run comes to, as nearly as whole batches allow.
TOKENS = 100_000_000
PROCESSES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRun:
    """A model, its recipe on ``PROCESSES`` GPUs, and the tokens that the paper serves with it."""

    model: str
    recipe: Recipe
    serves: int


def _run(model: str, factor: int, length: int, steps: int) -> PaperRun:
    """What all four share: Resonance YaRN (or yarn by --method), warm-up and then, as the paper names nothing
    else, a constant rate; bf16 and FlashAttention-2."""
    recipe = Recipe(
        method="resonance-yarn",
        parameters={"factor": factor},
        length=length,
        steps=steps,
        learning_rate=2e-5,
        weight_decay=1e-2,
        warmup=0.05,
        schedule="constant",
        precision="bf16",
        attention="flash_attention_2",
    )
    return PaperRun(model=model, recipe=recipe.with_tokens(TOKENS, PROCESSES), serves=4096 * factor)


_7B, _13B = "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-13b-chat-hf"
RECIPES = {
    "llama2-7b-32k": _run(_7B, 8, 32768, 50),
    "llama2-7b-4k": _run(_7B, 8, 4096, 400),
    "llama2-13b-16k": _run(_13B, 4, 16384, 100),
    "llama2-13b-4k": _run(_13B, 4, 4096, 400),
}
