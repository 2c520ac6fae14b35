"""Gaps without a look ahead: where loading filled one, the last known value stands instead."""

from __future__ import annotations

from dataclasses import replace

from support.telemetry.reading.grid import count_repair
from support.telemetry.schema import Repair, Telemetry

__all__ = ["known_only"]

IMPUTED = 1.0  # of `quality_flag`


def known_only(telemetry: Telemetry) -> Telemetry:
    """`telemetry` with the last known value of its resource wherever `quality_flag` is 1, in every metric.

    Loading fills a gap by a line between its ends, or from a nearby day: a forecast from within the gap would then have
    seen what comes after it. A gap before the first known value stays as it was filled. Use it before `resample`, or an
    interval counts as a gap as soon as one part of it is.

    Example:
        >>> import pandas as pd
        >>> times = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
        >>> index = pd.MultiIndex.from_product([["web"], times], names=["resource_id", "timestamp"])
        >>> frame = pd.DataFrame({"requests": [1.0, 2.0, 3.0], "quality_flag": [0.0, 1.0, 0.0]}, index=index)
        >>> known_only(Telemetry(frame, step_seconds=60.0)).demand().tolist()
        [1.0, 1.0, 3.0]
    """
    frame = telemetry.observations.copy()
    if "quality_flag" not in frame:
        return telemetry
    filled, metrics = frame["quality_flag"] == IMPUTED, telemetry.metrics
    known = frame[metrics].mask(filled).groupby(level="resource_id").ffill()
    frame.loc[filled, metrics] = known[filled].fillna(frame.loc[filled, metrics])
    repairs: list[Repair] = []
    count_repair(repairs, "filled intervals set to the last known value, so that none looks ahead", int(filled.sum()))
    return replace(telemetry, observations=frame, repairs=(*telemetry.repairs, *repairs))
