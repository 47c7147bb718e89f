import pytest
import torch


@pytest.fixture(scope="session")
def logits():
    """logits(model, n) for n fixed tokens."""

    def compute(model, n=300, **kwargs):
        ids = torch.randint(3, 128, (1, n), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return model(ids, **kwargs).logits

    return compute
