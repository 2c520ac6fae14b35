"""Streaming tail calibration, which makes one threshold valid across series, and refractory alerting."""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
from numba import njit

from support.anomalies.detectors import Detector, Streaming
from support.errors import SchemaError

__all__ = ["Debounced", "TailCalibrated"]

TAIL_QUANTILE = 0.98  # as in SPOT (Siffer et al., KDD 2017)
MEMORY_ROWS = 5000  # scores the running quantile looks back on
REFRACTORY_ROWS = 400  # 1.4 days at 5 minutes


class TailCalibrated(Streaming):
    """Excess of a detector's score over its own running quantile, in units of the running mean excess (streaming POT).

    For an exponential tail the result is exponential with mean 1 whatever the detector and the series, so one
    threshold means the same everywhere, and scores of different detectors may be summed. A row is judged by the rows
    before it. quantile: where the tail begins. memory: scores the quantile is taken from; the mean excess is over all
    so far. The detector's `history_scores` start both: for a model that learns row by row these include the first
    rows, when all is new, so that a score of 1 is about as strange as novelty was while it learned.

    Example:
        >>> from support.anomalies.detectors import RobustZ
        >>> x = np.random.default_rng(0).normal(size=400)
        >>> TailCalibrated(RobustZ(window=50)).fit(x).score(np.array([0.0, 50.0])).argmax()
        np.int64(1)
    """

    def __init__(self, detector: Detector, quantile: float = TAIL_QUANTILE, *, memory: int = MEMORY_ROWS) -> None:
        if not 0 < quantile < 1 or memory < 2:
            raise SchemaError(
                f"tail calibration: quantile {quantile} must be in (0, 1) and memory {memory} at least 2."
            )
        self.detector, self.quantile, self.memory = detector, quantile, memory

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Fit the detector and start the quantile. Raises SchemaError, TooShortError."""
        self.detector.fit(history)
        self._ring, self._sorted = np.zeros(self.memory), np.zeros(self.memory + 1)
        self._tail = np.zeros(4)  # scores held, place of the oldest, exceedances, their sum
        self.history_scores = self._calibrate(self.detector.history_scores)
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Calibrated scores of the rows that follow: 0 below the quantile."""
        return self._calibrate(self.detector.score(values))

    def _calibrate(self, scores: np.ndarray) -> np.ndarray:
        out = np.zeros(len(scores))
        _excess(np.ascontiguousarray(scores, dtype=float), self._ring, self._sorted, self._tail, self.quantile, out)
        return out


class Debounced(Streaming):
    """Emit a score only if it exceeds every score emitted in the last `rows` rows, else 0: one incident, one alert.

    Scores must be 0 where nothing is strange; what is not positive is never emitted. escalation: by how much it must
    exceed them, a factor of at least 1; above 1 a slowly growing incident does not alert at each step.

    Example:
        >>> from support.anomalies.detectors import RobustZ
        >>> d = Debounced(RobustZ(window=10), rows=3).fit(np.arange(10.0))
        >>> d.score(np.array([30.0, 30.0, 90.0, 5.0, 5.0, 5.0, 60.0])).round(1).tolist()
        [6.9, 0.0, 22.5, 0.0, 0.0, 0.0, 14.2]
    """

    def __init__(self, detector: Detector, *, rows: int = REFRACTORY_ROWS, escalation: float = 1.0) -> None:
        if rows < 1 or escalation < 1:
            raise SchemaError(f"refractory alerts: rows {rows} and escalation {escalation} must be at least 1.")
        self.detector, self.rows, self.escalation = detector, rows, escalation

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Fit the detector; nothing was emitted so far."""
        self.detector.fit(history)
        self._emitted, self._age = 0.0, self.rows + 1
        self.history_scores = self._emit(self.detector.history_scores)
        self._emitted, self._age = 0.0, self.rows + 1
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """The emitted scores of the rows that follow."""
        return self._emit(self.detector.score(values))

    def _emit(self, scores: np.ndarray) -> np.ndarray:
        out = np.zeros(len(scores))
        for i, score in enumerate(scores.tolist()):
            # within the window emitted scores only grow: the last one is the largest
            if score > (self.escalation * self._emitted if self._age <= self.rows else 0.0):
                out[i] = self._emitted = score
                self._age = 0
            self._age += 1
        return out


@njit(cache=True)
def _excess(scores, ring, ordered, tail, quantile, out):  # type: ignore[no-untyped-def]
    """Excess over the quantile of the ring, over the mean excess so far; the ring is kept sorted beside."""
    memory, count, oldest = ring.size, int(tail[0]), int(tail[1])
    for t in range(scores.size):
        score = scores[t]
        if count > 1:
            place = quantile * (count - 1)
            low = int(place)
            limit = ordered[low] + (place - low) * (ordered[min(low + 1, count - 1)] - ordered[low])
            excess = score - limit
            if excess > 0.0:
                mean = tail[3] / tail[2] if tail[2] > 0.0 else excess
                out[t] = excess / mean
                tail[2] += 1.0
                tail[3] += excess
        if count == memory:
            gone = np.searchsorted(ordered[:count], ring[oldest])
            for i in range(gone, count - 1):
                ordered[i] = ordered[i + 1]
            count -= 1
        place_new = np.searchsorted(ordered[:count], score)
        for i in range(count, place_new, -1):
            ordered[i] = ordered[i - 1]
        ordered[place_new] = score
        ring[oldest] = score
        count, oldest = count + 1, (oldest + 1) % memory
    tail[0], tail[1] = count, oldest
