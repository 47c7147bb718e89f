"""The ``resrope`` key of a config read back; standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resrope.spec import Frequencies, RopeSpec, frequencies

KEY = "resrope"


def recorded_specs(config: Mapping[str, Any]) -> dict[str, RopeSpec] | None:
    """The specs that a config's ``resrope`` key records, by layer type; None without the key.

    Raises ValueError when the key cannot be read or its integer wavelengths are not those of its specs.
    """
    record = config.get(KEY)
    if record is None:
        return None
    if not isinstance(record, Mapping) or not isinstance(record.get("specs"), Mapping):
        raise ValueError(f"the config's {KEY} key must hold specs by layer type, got {record!r:.80}")
    specs = {layer: RopeSpec.from_dict(spec) for layer, spec in record["specs"].items()}
    for layer, periods in dict(record.get("wavelengths") or {}).items():
        if layer not in specs or _periods(frequencies(specs[layer])) != list(periods):
            raise ValueError(f"the config's {KEY} key has other wavelengths than its specs give ({layer})")
    return specs


def _periods(table: Frequencies) -> list[int] | None:
    return None if table.periods is None else list(table.periods)
