"""A queue of events read every two minutes: arrivals, what the workers got done, what waits, how long one event takes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from support.telemetry.calendars import DAY_SECONDS
from support.telemetry.generation.processes import ar1

__all__ = ["event_queue"]

# ScaleIQ describes 107,144 two-minute rows, March to July 2025: busiest hour, quietest hour, weekends, processing time.
PEAK_HOUR, PEAK_EVENTS = 2.5, 5835.0  # mean per two minutes, all days; the middle of the hour from 02:00
TROUGH_HOUR, TROUGH_EVENTS = 16.5, 1740.0
WEEKEND_FACTOR = 0.33
PROCESSING_MS, PROCESSING_SD = 73.6, 0.15  # mean; deviation in log units is this book's assumption
PER_SECONDS = 120.0
# Chosen so that the described 95 % quantile of arrivals (10,134) and mean queue (5,763) nearly come out on average over
# seeds. A few heavy hours make the queue, so a single seed's mean may be half or twice the described one.
NOISE_SD, NOISE_MEMORY_MINUTES, WORKERS = 0.55, 40.0, 7
ERROR_FRAC, BUSY_ERROR_FRAC = 0.002, 0.02  # of processed events, without and with a backlog: this book's assumption


def event_queue(times: pd.DatetimeIndex, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Metrics at `times` (UTC, even step): requests (arrivals), processed, errors (among these), queue_length (at the end), latency_ms.

    The queue follows Lindley's recursion Q[t] = max(Q[t-1] + arrivals[t] - capacity, 0), with the capacity of seven
    workers that need 73.6 ms an event; nothing is lost. latency_ms is the mean processing time of one event, not its wait.
    Source: Lindley (1952), Proc. Cambridge Phil. Soc. 48; figures as described by ScaleIQ.

    Example:
        >>> times = pd.date_range("2025-03-01", periods=4, freq="120s", tz="UTC")
        >>> m = event_queue(times, rng=np.random.default_rng(1))
        >>> bool(np.isclose(m["requests"].sum(), m["processed"].sum() + m["queue_length"][-1]))
        True
    """
    step = (times[1] - times[0]).total_seconds()
    seconds = times.as_unit("s").asi8
    since = (seconds / 3600 - PEAK_HOUR) % 24
    fall = (TROUGH_HOUR - PEAK_HOUR) % 24
    phase = np.where(since < fall, np.pi * since / fall, np.pi * (1 + (since - fall) / (24 - fall)))
    level = TROUGH_EVENTS + (PEAK_EVENTS - TROUGH_EVENTS) * (1 + np.cos(phase)) / 2
    weekend = (seconds // DAY_SECONDS + 3) % 7 >= 5  # the epoch was a Thursday
    level *= np.where(weekend, WEEKEND_FACTOR, 1.0) * 7 / (5 + 2 * WEEKEND_FACTOR)
    noise = ar1(len(times), NOISE_MEMORY_MINUTES * 60 / step, NOISE_SD, rng=rng)
    arrivals = rng.poisson(level * step / PER_SECONDS * np.exp(noise - NOISE_SD**2 / 2)).astype(float)
    capacity = np.floor(WORKERS * step * 1000 / PROCESSING_MS)
    walk = np.cumsum(arrivals - capacity)
    queue = walk - np.minimum(np.minimum.accumulate(walk), 0)
    processed = arrivals - np.diff(queue, prepend=0.0)
    return {
        "requests": arrivals,
        "processed": processed,
        "errors": rng.binomial(processed.astype(np.int64), np.where(queue > 0, BUSY_ERROR_FRAC, ERROR_FRAC)).astype(
            float
        ),
        "queue_length": queue,
        "latency_ms": PROCESSING_MS * np.exp(ar1(len(times), 10.0, PROCESSING_SD, rng=rng) - PROCESSING_SD**2 / 2),
    }
