"""PosGen cells trained as one model against the same cells one after the other, a step of each on one thread.

On a CPU the products fill a core, and one model of many does not help; a GPU is what it is for.
"""

from __future__ import annotations

from typing import Any

import torch

from resrope.posgen.batched import Batch
from resrope.posgen.presets import preset
from resrope.posgen.record import Cell
from resrope.posgen.settings import Settings
from resrope.posgen.work import prepared
from timing import ratio, times

FEW = {"train_rows": 2000, "validation_rows": 10, "test_rows": 10}
SIZES = {
    "small": {},
    "a quarter of small": {"d_model": 32, "n_heads": 1, "head_dim": 16, "d_ff": 128},
}
ROUNDS, STEPS = 7, 10


def measure() -> dict[str, Any]:
    """By size and number of cells: how many times faster together."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            name: {
                str(cells): _times_faster(preset("small").override({**FEW, **size}), cells)
                for cells in (2, 4, 8)
            }
            for name, size in SIZES.items()
        }
    finally:
        torch.set_num_threads(threads)


def _times_faster(settings: Settings, cells: int) -> dict[str, float]:
    def trainers() -> list[Any]:
        return [
            prepared(Cell(task="cot", method="rope", seed=seed), settings).trainer for seed in range(cells)
        ]

    alone, batch = trainers(), Batch(trainers(), torch.device("cpu"))

    def one_by_one() -> None:
        for trainer in alone:
            for _ in trainer.losses(trainer.step + STEPS):
                pass

    def together() -> None:
        for _ in batch.losses(batch.step + STEPS):
            pass

    found = times({"alone": one_by_one, "together": together}, ROUNDS)
    milliseconds = 1000 * min(found["together"]) / STEPS / cells
    return {"times_faster": ratio(found["alone"], found["together"]), "ms_a_cell": milliseconds}


if __name__ == "__main__":
    print(measure())
