"""A detector on a live stream: any iterator of (timestamp, value), or a Prometheus server asked again and again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from support.anomalies.detectors import Detector
from support.errors import SchemaError, TooShortError
from support.telemetry.reading.live import load_prometheus

__all__ = ["Alert", "Watch", "prometheus_stream"]

OVERLAP_ROWS = 12  # asked for again at each poll: telemetry of fewer than ten rows, or mostly of gaps, is refused


@dataclass(frozen=True)
class Alert:
    """A row that scored at or above the threshold: when, what it was (in units of the stream), how strange."""

    timestamp: Any
    value: float
    score: float


class Watch:
    """Feeds a stream to a detector and yields the alerts; memory is that of the detector, however long the stream.

    The first `n_history` rows fit the detector and cannot alert. threshold: alert where score >= threshold. Values
    that are not finite are skipped and counted in `skipped`; rows that are not after the one before (repeated or
    late) in `late`. `rows` counts what the detector saw. Raises SchemaError for a bad setting, TooShortError where
    the stream ends in the history.

    Example:
        >>> from support.anomalies.detectors import RobustZ
        >>> stream = enumerate([0.0, 1.0] * 20 + [50.0, 1.0])
        >>> [(a.timestamp, a.value) for a in Watch(RobustZ(window=20), threshold=6, n_history=20).alerts(stream)]
        [(40, 50.0)]
    """

    def __init__(self, detector: Detector, *, threshold: float, n_history: int) -> None:
        if n_history < 1 or math.isnan(threshold):
            raise SchemaError(f"watch: n_history {n_history} must be at least 1 and threshold {threshold} a number.")
        self.detector, self.threshold, self.n_history = detector, threshold, n_history
        self.rows, self.skipped, self.late = 0, 0, 0

    def alerts(self, stream: Iterable[tuple[Any, float]]) -> Iterator[Alert]:
        """The alerts of the stream as they come, for ever if it does not end."""
        times: list[Any] = []
        values: list[float] = []
        last = None
        for timestamp, value in stream:
            if not math.isfinite(value):
                self.skipped += 1
                continue
            if last is not None and not timestamp > last:
                self.late += 1
                continue
            last = timestamp
            self.rows += 1
            if self.rows <= self.n_history:
                times.append(timestamp)
                values.append(float(value))
                if self.rows == self.n_history:
                    dated = isinstance(timestamp, pd.Timestamp)
                    self.detector.fit(pd.Series(values, pd.DatetimeIndex(times)) if dated else np.array(values))
                    times, values = [], []
                continue
            score = self.detector.update(float(value), timestamp if isinstance(timestamp, pd.Timestamp) else None)
            if score >= self.threshold:
                yield Alert(timestamp, float(value), score)
        if self.rows < self.n_history:
            raise TooShortError(f"watch: the stream ended after {self.rows} rows; {self.n_history} are the history.")


def prometheus_stream(
    url: str, query: str, *, start: Any, step_seconds: float, polls: int | None = None,
    wait: Callable[[float], Any] = time.sleep, clock: Callable[[], pd.Timestamp] = lambda: pd.Timestamp.now("UTC"),
    **options: Any,
) -> Iterator[tuple[pd.Timestamp, float]]:  # fmt: skip
    """(timestamp, value) of one PromQL series: what there is since `start`, then every step what is new.

    url, query, start, step_seconds, options: as in `load_prometheus`. polls: questions after the first, None for
    ever. wait, clock: how to sleep and what time it is. Where too few of the newest rows are there, a poll asks again,
    each time twice as far back, so that an outage does not end the stream. Raises SchemaError if the query yields more
    than one series or metric, and what `load_prometheus` raises.
    """
    step = pd.Timedelta(seconds=step_seconds)
    first, begin, last, asked, back = start, None, None, 0, OVERLAP_ROWS * step
    while True:
        try:
            telemetry, _ = load_prometheus(url, query, start=first, end=clock(), step_seconds=step_seconds, **options)
        except (TooShortError, SchemaError):
            if last is None or last - back <= begin:
                raise
            back *= 2
            first = max(last - back, begin)
            continue
        if len(telemetry.resource_ids) != 1 or len(telemetry.metrics) != 1:
            raise SchemaError(
                f"{query}: a stream needs one series of one metric, got {telemetry.metrics} of "
                f"{telemetry.resource_ids}. Aggregate with sum() or avg()."
            )
        series = telemetry.series(telemetry.metrics[0])
        yield from (series if last is None else series[series.index > last]).items()
        begin, last, back = series.index[0] if begin is None else begin, series.index[-1], OVERLAP_ROWS * step
        first = last - back
        if asked == polls:
            return
        asked += 1
        wait(step_seconds)
