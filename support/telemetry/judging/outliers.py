"""Outliers capped, not deleted: values far from their recent past are pulled to its edge, flagged and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.reading.grid import count_repair
from support.telemetry.schema import Repair, Telemetry

__all__ = ["cap_outliers"]

LEAST_VALUES = 10  # in the window, before a value is judged


def cap_outliers(telemetry: Telemetry, metric: str, *, window_days: float = 30.0, threshold: float = 4.0) -> Telemetry:
    """`telemetry` with values of `metric` beyond `threshold` standard deviations of the `window_days` before them capped there.

    Only the past is used (a value does not judge itself), so nothing leaks into a forecast; capped rows get quality_flag 1.
    Raises SchemaError for an unknown metric or a window or threshold that is not positive.
    Source: AWS-CapacityForecaster, rolling z-score over 30 days, threshold 4.

    Example:
        >>> from support.telemetry import load
        >>> capped = cap_outliers(load("synthetic:web", seed=1, days=7), "requests", window_days=2.0, threshold=3.0)
        >>> capped.repairs[-1].what
        'values of requests more than 3 standard deviations off the 2 days before, capped there'
    """
    if metric not in telemetry.metrics:
        raise SchemaError(f"{telemetry.source}: no metric {metric!r}; there are {telemetry.metrics}.")
    if not window_days > 0 or not threshold > 0:
        raise SchemaError(
            f"{telemetry.source}: window_days={window_days}, threshold={threshold}; both must be positive."
        )
    steps = max(round(window_days * 86_400 / telemetry.step_seconds), 2)
    frame = telemetry.observations.copy()
    values = frame[metric].groupby(level="resource_id")
    past = values.shift().groupby(level="resource_id").rolling(steps, min_periods=min(LEAST_VALUES, steps))
    mean, reach = past.mean().droplevel(0), threshold * past.std().droplevel(0)
    capped = frame[metric].clip((mean - reach).fillna(-np.inf), (mean + reach).fillna(np.inf))
    moved = (capped != frame[metric]) & frame[metric].notna()
    frame[metric] = capped
    flags = frame["quality_flag"] if "quality_flag" in frame else pd.Series(0.0, index=frame.index)
    if moved.any() or "quality_flag" in frame:
        frame["quality_flag"] = flags.mask(moved, np.maximum(flags, 1.0))
    repairs: list[Repair] = []
    what = f"values of {metric} more than {threshold:g} standard deviations off the {window_days:g} days before, capped there"
    count_repair(repairs, what, int(moved.sum()))
    return replace(telemetry, observations=frame, repairs=(*telemetry.repairs, *repairs))
