"""Real checkpoints: which rotary position embedding a model was made with."""

from resrope.models.config import ModelRope, read_config, rope_from_config

__all__ = ["ModelRope", "read_config", "rope_from_config"]
