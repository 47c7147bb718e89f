"""What a method does to every feature of a model, in one table of numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from resrope.analysis.critical import is_pre_critical, period_lcm
from resrope.analysis.gap import feature_gap
from resrope.analysis.recurrence import Recurrence, recurrences
from resrope.spec import RopeSpec, frequencies, method_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """One feature (a pair of dimensions). Wavelengths in tokens, gaps as chords of the unit circle.

    wavelength: of plain RoPE. scaled: after the method's scaling. resonant: the nearest integer to it.
    shift_percent: from scaled to resonant. gap_before, gap_after: Eq. 8 of the scaled table without and
    with Resonance.
    """

    index: int
    wavelength: float
    scaled: float
    resonant: int
    shift_percent: float
    pre_critical: bool
    gap_before: float
    gap_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTable:
    """All features of one spec at a training and a test length, and their totals.

    recurrence_before, recurrence_after: the highest peak of ``recurrences`` at a distance that training does
    not reach and the test does, without and with Resonance; None where there is none.
    """

    method: str
    train_length: int
    test_length: int
    attention_factor: float
    features: tuple[Feature, ...]
    common_period: int
    recurrence_before: Recurrence | None
    recurrence_after: Recurrence | None

    def totals(self) -> dict[str, Any]:
        """How many features are pre-critical, gaps and the highest recurrence before and after."""
        pre = [f for f in self.features if f.pre_critical]
        return {
            "features": len(self.features),
            "pre_critical": len(pre),
            "max_gap_before": max(f.gap_before for f in self.features),
            "max_gap_after": max(f.gap_after for f in self.features),
            "mean_gap_before": sum(f.gap_before for f in self.features) / len(self.features),
            "mean_gap_after": sum(f.gap_after for f in self.features) / len(self.features),
            "pre_critical_max_gap_before": max((f.gap_before for f in pre), default=0.0),
            "pre_critical_max_gap_after": max((f.gap_after for f in pre), default=0.0),
            "common_period": self.common_period,
            "recurrence_before": self.recurrence_before and asdict(self.recurrence_before),
            "recurrence_after": self.recurrence_after and asdict(self.recurrence_after),
            "attention_factor": self.attention_factor,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON types; the common period as an exact integer, a feature that never turns as null."""
        rows = [asdict(f) for f in self.features]
        for row in rows:
            for name in ("wavelength", "scaled"):
                row[name] = None if row[name] == float("inf") else row[name]
        return {
            "method": self.method,
            "train_length": self.train_length,
            "test_length": self.test_length,
            "features": rows,
            "totals": self.totals(),
        }


def feature_table(spec: RopeSpec, train_length: int, test_length: int) -> FeatureTable:
    """The table of ``spec``, whose own ``resonance`` names the method but changes no column.

    A feature is pre-critical when its scaled wavelength is below ``train_length`` tokens. Raises
    ValueError unless train_length < test_length.
    """
    plain = frequencies(replace(spec, scaling=None, resonance=False)) if _same_size(spec) else None
    scaled = frequencies(replace(spec, resonance=False), seq_len=test_length)
    resonant = frequencies(replace(spec, resonance=True), seq_len=test_length)
    assert resonant.periods is not None
    before = feature_gap(scaled, train_length, test_length).per_feature
    after = feature_gap(resonant, train_length, test_length).per_feature
    pre = is_pre_critical(scaled, train_length)
    features = tuple(
        Feature(
            index=j,
            wavelength=(plain or scaled).wavelengths[j],
            scaled=scaled.wavelengths[j],
            resonant=period,
            shift_percent=100 * (resonant.wavelengths[j] / scaled.wavelengths[j] - 1) if frequency else 0.0,
            pre_critical=pre[j],
            gap_before=float(before[j]),
            gap_after=float(after[j]),
        )
        for j, (period, frequency) in enumerate(zip(resonant.periods, scaled.inv_freq, strict=True))
    )
    return FeatureTable(
        method=method_name(spec.scaling, spec.resonance),
        train_length=train_length,
        test_length=test_length,
        attention_factor=scaled.attention_factor,
        features=features,
        common_period=period_lcm(resonant, train_length) or 1,
        recurrence_before=next(iter(recurrences(scaled, train_length, test_length)), None),
        recurrence_after=next(iter(recurrences(resonant, train_length, test_length)), None),
    )


def _same_size(spec: RopeSpec) -> bool:
    """Proportional RoPE has more features than the partial rotation it would otherwise be."""
    return replace(spec, scaling=None).rotary_dim == spec.rotary_dim
