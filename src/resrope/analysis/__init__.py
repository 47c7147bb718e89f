"""numpy: critical dimension, common period, recurrences, feature gap (Eq. 8), vector distance (Eq. 9)."""

from resrope.analysis.critical import critical_dimension, is_pre_critical, period_lcm
from resrope.analysis.features import Feature, FeatureTable, feature_table
from resrope.analysis.gap import Gap, embedded_vector_distance, feature_gap
from resrope.analysis.recurrence import Recurrence, recurrence, recurrences

__all__ = [
    "Feature",
    "FeatureTable",
    "Gap",
    "Recurrence",
    "critical_dimension",
    "embedded_vector_distance",
    "feature_gap",
    "feature_table",
    "is_pre_critical",
    "period_lcm",
    "recurrence",
    "recurrences",
]
