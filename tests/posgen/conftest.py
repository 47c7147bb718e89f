import pytest
import torch

from resrope.posgen.settings import Settings

TINY = {
    "d_model": 16,
    "n_heads": 2,
    "head_dim": 8,
    "d_ff": 32,
    "n_layers": 1,
    "train_rows": 60,
    "validation_rows": 12,
    "test_rows": 10,
    "train_length": 12,
    "test_length": 24,
    "epochs": 3,
    "batch_size": 16,
    "looks": 4,
    "look_rows": 6,
    "learning_rate": 1e-2,
    "dropout": 0.1,
}


def tiny_words(**changes):
    """``--set`` of all of them, for a command line."""
    return [word for field, value in {**TINY, **changes}.items() for word in ("--set", f"{field}={value}")]


@pytest.fixture
def tiny():
    """A run of a second: every mechanism of the real one, dropout included."""
    return Settings().override(TINY)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny models gain nothing from threads, and on a busy machine lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
