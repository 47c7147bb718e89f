"""Real checkpoints: which rotary position embedding a model was made with."""

from resrope.models.config import ModelRope, rope_from_config
from resrope.models.source import read_config

__all__ = ["ModelRope", "read_config", "rope_from_config"]
