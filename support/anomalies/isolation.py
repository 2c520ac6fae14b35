"""Isolation forest on lag windows and the calendar: scikit-learn's numbers, for a series instead of a table."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest

from support.anomalies.detectors import Streaming, checked_history
from support.errors import SchemaError

__all__ = ["IsolationForestDetector"]

LAGS, TREES = 30, 100
DAY_SECONDS, WEEK_DAYS = 86_400.0, 7.0


class IsolationForestDetector(Streaming):
    """How few random cuts separate the last `lags` rows (and the time of day and week) from the history.

    contamination: share of the history called an anomaly, in (0, 0.5]; it moves `predict` and `decision_function` only,
    never the order of the scores. lags: rows in the window, the row itself included. calendar: add sine and cosine of
    the hour of day and of week; values must then be Series with a DatetimeIndex. The rows before the first are taken to
    equal it. `score` is minus scikit-learn's `score_samples`: about 0.4-0.5 for usual rows, near 1 for strange ones.
    `fit(X).predict(X)` and its kin take a whole series and do not move the stream. Source: Liu, Ting and Zhou (2008).

    Example:
        >>> x = np.r_[np.tile([0.0, 1.0, 2.0], 40), 9.0]
        >>> IsolationForestDetector(contamination=0.01, lags=3).fit(x).predict(x)[-3:].tolist()
        [1, 1, -1]
    """

    def __init__(
        self,
        contamination: float = 0.05,
        *,
        lags: int = LAGS,
        calendar: bool = False,
        trees: int = TREES,
        seed: int = 0,
    ) -> None:
        if not 0 < contamination <= 0.5 or lags < 1:
            raise SchemaError(f"isolation forest: contamination {contamination} must be in (0, 0.5], lags {lags} >= 1.")
        self.lags, self.calendar = lags, calendar
        self.forest = IsolationForest(n_estimators=trees, contamination=contamination, random_state=seed)

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Grow the trees on the windows of the history. Raises SchemaError, TooShortError."""
        values = checked_history(history)
        features = self.features(history)
        self.history_scores = -self.forest.fit(features).score_samples(features)
        self._last = np.r_[np.full(self.lags, values[0]), values][-self.lags :]
        return self

    def features(self, values: np.ndarray | pd.Series, past: np.ndarray | None = None) -> np.ndarray:
        """Windows (n, lags), newest value last, then the calendar (n, 4); past: rows before, else the first one."""
        x = np.asarray(values, dtype=float)
        if not x.size:
            return np.empty((0, self.lags + 4 * self.calendar))
        past = np.full(self.lags, x[0]) if past is None else past
        windows = np.lib.stride_tricks.sliding_window_view(np.r_[past, x][1:], self.lags)
        return np.hstack([windows, self._clock(values)]) if self.calendar else np.ascontiguousarray(windows)

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Scores of the rows that follow, from the trees of the history. Raises SchemaError if one is not finite."""
        x = checked_history(values, rows=0)
        features = self.features(values, self._last)
        self._last = np.r_[self._last, x][-self.lags :]
        return -self.forest.score_samples(features) if len(x) else np.empty(0)

    def score_samples(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """scikit-learn's score of each row of a whole series: the lower, the stranger."""
        return np.asarray(self.forest.score_samples(self.features(values)))

    def decision_function(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """`score_samples` minus the limit that the contamination sets: negative for anomalies."""
        return np.asarray(self.forest.decision_function(self.features(values)))

    def predict(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """-1 for anomalies, +1 for the rest, as scikit-learn has it."""
        return np.asarray(self.forest.predict(self.features(values)))

    def _clock(self, values: Any) -> np.ndarray:
        if not isinstance(values, pd.Series) or not isinstance(values.index, pd.DatetimeIndex):
            raise SchemaError(
                "isolation forest: calendar=True needs a Series with a DatetimeIndex (update: a timestamp)."
            )
        index = values.index
        day = (index.hour * 3600 + index.minute * 60 + index.second).to_numpy() / DAY_SECONDS
        angles = 2 * np.pi * np.column_stack([day, (index.dayofweek.to_numpy() + day) / WEEK_DAYS])
        return np.hstack([np.sin(angles), np.cos(angles)])
