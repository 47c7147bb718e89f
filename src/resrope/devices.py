"""Where tensors lie."""

from __future__ import annotations

import torch


def device_of(asked: str | None) -> torch.device:
    """cuda or mps where there is one, else cpu; or the one asked for: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises ValueError for one that this torch does not have.
    """
    if asked is None:
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n")[0]
        raise ValueError(f"device must be one that this torch has, got {asked}: {first}") from None
    if device.type == "meta":
        raise ValueError("device must be one that computes, got meta")
    return device


def told(device: torch.device) -> str:
    """For a record: ``cpu``, or ``cuda (NVIDIA H200, CUDA 12.8)``."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda})"
