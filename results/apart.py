"""Integers that come back least: `python results/apart.py` prints a list for `--set wavelengths=`.

A beam search over the features of PosGen's RoPE that turn within the training length, the shortest first: an
integer within 35 % of each wavelength, no integer twice, so that the highest mean cosine beyond the training
length (`resrope.analysis.recurrence`) of those chosen so far is low, from the fourth on and at the end.
The features that do not turn take the nearest integer.
"""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt

from resrope.cli.shell import script
from resrope.posgen.presets import preset
from resrope.spec import frequencies

REACH, FIRST, WIDTH = 0.35, 4, 600
Beam = tuple[tuple[int, ...], npt.NDArray[np.float64], float]
"""Integers, the sum of their cosines by distance, the highest mean so far."""


def main() -> None:
    """Print the list."""
    settings = preset("small")
    plain = frequencies(settings.spec("rope")).wavelengths
    fast = [w for w in plain if w < settings.train_length]
    found = apart(fast, np.arange(settings.train_length, settings.test_length))
    print(json.dumps([*found, *(round(w) for w in plain[len(fast) :])], separators=(",", ":")))


def apart(wavelengths: list[float], distances: npt.NDArray[np.int64]) -> list[int]:
    """One integer a wavelength, in rising order."""
    beams: list[Beam] = [((), np.zeros(len(distances)), 0.0)]
    for count, wavelength in enumerate(wavelengths, 1):
        grown: dict[tuple[int, ...], tuple[float, Beam]] = {}
        for chosen, total, worst in beams:
            for period in _near(wavelength):
                if period not in chosen:
                    cosines = total + np.cos(math.tau * distances / period)
                    highest = float(cosines.max()) / count
                    beam = ((*chosen, period), cosines, max(worst, highest) if count >= FIRST else 0.0)
                    score, same = beam[2] + highest, tuple(sorted(beam[0]))
                    if same not in grown or score < grown[same][0]:
                        grown[same] = score, beam
        beams = [beam for _, beam in sorted(grown.values(), key=lambda pair: pair[0])[:WIDTH]]
    return sorted(beams[0][0])


def _near(wavelength: float) -> range:
    return range(max(3, math.ceil(wavelength * (1 - REACH))), int(wavelength * (1 + REACH)) + 1)


if __name__ == "__main__":
    script(main)
