import pytest
import torch

import resrope
from resrope.finetune.recipe import Recipe
from resrope.finetune.run import Job
from resrope.finetune.trainer import Rhythm

RECIPE = Recipe(
    length=64,
    steps=6,
    chunk=16,
    method="resonance-yarn",
    parameters={"factor": 4},
    learning_rate=1e-2,
    warmup=0.2,
    accumulation=2,
)


@pytest.fixture
def job(letters, prose, tmp_path):
    (tmp_path / "books").mkdir()
    for i in range(3):
        (tmp_path / "books" / f"{i}.txt").write_text(prose(i))
    (tmp_path / "held.txt").write_text(prose(9))
    return Job(
        model=str(letters),
        out=tmp_path / "out",
        recipe=RECIPE,
        texts=[str(tmp_path / "books")],
        held_out=[str(tmp_path / "held.txt")],
        cache=tmp_path / "cache",
        rhythm=Rhythm(save=2, evaluate=4, looks=3),
        cpu=False,
    )


def stock_loss(folder, job, record):
    """Of the first update's sequences, by transformers' own loss, before anything is trained."""
    import datasets

    from resrope.finetune.recipe import order

    rows = datasets.Dataset.from_file(str(job.cache / record["texts"]["key"] / "chunks.arrow"))
    model = resrope.load(folder, "resonance-yarn", factor=4, dtype=torch.float32)
    first = [torch.tensor(rows[i]["input_ids"])[None] for i in order(len(rows), 2, RECIPE.seed)]
    with torch.no_grad():
        return sum(float(model(input_ids=x, labels=x).loss) for x in first) / 2
