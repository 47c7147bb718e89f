"""What an extension did: as data, and as a section of the model card."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from resrope.models.extension import Extension, trained_length
from resrope.spec import Frequencies, frequencies


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChange:
    """What happened to the table of one layer type.

    changed: features with another frequency than before, of ``features``. longest: the longest
    finite wavelength in tokens, before and after. attention_factor: before and after, folded or not.
    """

    layer: str
    features: int
    changed: int
    longest: tuple[float, float]
    resonant: bool
    attention_factor: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What ``extend`` did.

    original_length: tokens the model was trained on, None where nothing tells. spelling: how the config
    says it ("plain", "native", "longrope", "gguf"). folded: the attention factor is in the weights.
    files, linked, left_out: as in ``folder.Written``. caveat: who else would not use the table, or
    None. load: how to run it, one line. seconds: of the wall.
    """

    method: str
    engine: str
    out: str
    original_length: int | None
    length: int
    spelling: str
    folded: bool
    layers: tuple[LayerChange, ...]
    files: tuple[str, ...]
    linked: tuple[str, ...]
    left_out: tuple[str, ...]
    caveat: str | None
    load: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def change(made: Extension, layer: str) -> LayerChange:
    """What ``made`` does to the table of one layer type."""
    before, after = (frequencies(rope.specs[layer]) for rope in (made.before, made.after))
    # Proportional RoPE may cover more features than the model's own table, all of them new.
    new = abs(len(after.inv_freq) - len(before.inv_freq))
    return LayerChange(
        layer=layer,
        features=len(after.inv_freq),
        changed=new + sum(a != b for a, b in zip(before.inv_freq, after.inv_freq, strict=False)),
        longest=(_longest(before), _longest(after)),
        resonant=after.periods is not None,
        attention_factor=(before.attention_factor, after.attention_factor),
    )


def _longest(table: Frequencies) -> float:
    return max(wavelength for wavelength in table.wavelengths if wavelength < math.inf)


def card_section(made: Extension, engine: str, spelling: str, folded: bool, load: str) -> str:
    """What the model card says under "Extended context"."""
    from resrope import __version__

    scaling = made.after.specs[made.layers[0]].scaling
    original, factor = trained_length(made.after), getattr(scaling, "factor", None)
    base = ", ".join(f"{made.after.specs[layer].rope_theta:g}" for layer in made.layers)
    facts = [
        f"- method: {made.method}" + ("" if factor is None else f", factor {factor:g}"),
        f"- context length: {made.length} tokens" + ("" if original is None else f", trained on {original}"),
        f"- rope_theta: {base}; written for {engine} ({spelling})",
    ]
    if folded:
        facts.append("- the attention factor is multiplied into the weights of the queries")
    intro = f"The rotary position embeddings were changed by resrope {__version__}; nothing was trained."
    return "\n".join([intro, "", *facts, "", "```sh", load, "```"])
