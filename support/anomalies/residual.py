"""The forecast-residual detector: how far in the tail of its predictive distribution did the value fall."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import pandas as pd
from numba import njit
from scipy.special import stdtr
from scipy.stats import binom

from support.anomalies.detectors import Streaming, checked_history, scale_of
from support.errors import SchemaError
from support.forecast import Forecast

__all__ = ["ResidualDetector", "false_alert_share", "forecast_pit", "k_of_n", "tail_surprise"]

SMALLEST_TAIL = 1e-300  # keeps the surprise finite
PRIOR_VARIANCE = 1.0  # of the regression coefficients, relative to the noise of standardised values
PRIOR_DOF = 2.0
MEMORY_ROWS = 2016  # handed to a forecaster: a week at 5 minutes
MOST_VARIANCE = 1e3  # mean variance of the coefficients up to which the past is forgotten


def forecast_pit(forecast: Forecast, actual: np.ndarray) -> np.ndarray:
    """Probability integral transform u in (0, 1) of `actual` (n_series, n_horizon) under the forecast's paths.

    u = (paths below + half of those equal + 1/2) / (paths + 1): uniform on that grid if actual is one more draw, and
    never 0 or 1, so the surprise of n paths ends at log10(n + 1). Raises SchemaError for another shape or values not
    finite.

    Example:
        >>> f = Forecast.from_paths(np.arange(9.0).reshape(1, 9, 1), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                         step_seconds=60, unit="%", model="m")
        >>> forecast_pit(f, np.array([[100.0]])).round(2).tolist()
        [[0.95]]
    """
    actual = np.asarray(actual, dtype=float)
    n_series, _, n_horizon = forecast.paths.shape
    if actual.shape != (n_series, n_horizon) or not np.isfinite(actual).all():
        raise SchemaError(
            f"forecast {forecast.model}: actual has shape {actual.shape}, wanted {(n_series, n_horizon)}."
        )
    return _rank(forecast.paths, actual[:, None], axis=1)


def tail_surprise(u: np.ndarray) -> np.ndarray:
    """-log10 of the two-sided tail 2 min(u, 1 - u): 3 is a one-in-a-thousand value.

    Example:
        >>> tail_surprise(np.array([0.5, 0.0005, 0.9995])).round(6).tolist()
        [-0.0, 3.0, 3.0]
    """
    u = np.asarray(u, dtype=float)
    return -np.log10(np.maximum(2.0 * np.minimum(u, 1.0 - u), SMALLEST_TAIL))


def k_of_n(alerts: np.ndarray, k: int, n: int) -> np.ndarray:
    """True where at least k of the last n rows (the row included) are alerts.

    Example:
        >>> k_of_n(np.array([True, False, True, True, False]), 2, 3).tolist()
        [False, False, True, True, True]
    """
    if not 1 <= k <= n:
        raise SchemaError(f"k of n: k {k} must be in 1..n = {n}.")
    total = np.r_[0, np.cumsum(np.asarray(alerts, dtype=int))]
    row = np.arange(1, len(total))
    return np.asarray(total[row] - total[np.maximum(row - n, 0)] >= k)


def false_alert_share(threshold: float, k: int = 1, n: int = 1) -> float:
    """Share of quiet rows on which `k_of_n(tail_surprise(u) >= threshold, k, n)` fires if the predictive law is true.

    Then u is uniform and independent over one-step forecasts, and the number in n rows is Binomial(n, 10^-threshold).

    Example:
        >>> f"{288 * false_alert_share(3.0):.2f} a day at 5 minutes"
        '0.29 a day at 5 minutes'
    """
    return float(binom.sf(k - 1, n, 10.0**-threshold))


class ResidualDetector(Streaming):
    """Tail surprise -log10(2 min(u, 1 - u)) of each row under a forecast made before it.

    forecaster: from the last `memory` rows (oldest first, in units of x) to a Forecast of one series; it is asked
    again when its horizon is used up, and first after half of the history. Beyond the first step the u of a forecast
    depend on each other: the share of false alerts is then still as announced, that of `k_of_n` is not. Without one
    it is a Bayesian autoregression, updated row by row, that slowly forgets (West and Harrison 1997). Predictors of a
    row: 1, the last `lags` rows and, if season > 0, the rows one season ago and the one after it (their difference
    tells what the season does next). Values are standardised by the history. The one-step predictive is a Student t
    with at most 1/(1 - discount) degrees of freedom. discount: weight of the past per row. Where a season is not yet
    seen the history's mean stands for it.

    Example:
        >>> wave = np.sin(np.arange(400) * np.pi / 12)
        >>> d = ResidualDetector(lags=2, season=24).fit(wave[:300] + 0.01 * np.cos(np.arange(300) ** 2))
        >>> d.score(np.r_[wave[300:340], 5.0]).argmax()
        np.int64(40)
    """

    def __init__(
        self, forecaster: Callable[[np.ndarray], Forecast] | None = None, *, lags: int = 3, season: int = 0,
        discount: float = 0.998, memory: int = MEMORY_ROWS,
    ) -> None:  # fmt: skip
        if lags < 1 or season < 0 or season == 1 or not 0.5 < discount <= 1:
            raise SchemaError(
                f"residual detector: lags {lags} >= 1, season {season} 0 or > 1, discount {discount} in (0.5, 1]."
            )
        self.forecaster, self.memory = forecaster, memory
        self.lags, self.season, self.discount = lags, season, discount

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Learn the scale and run through the history. Raises SchemaError, TooShortError."""
        values = checked_history(history)
        if self.forecaster:
            half = len(values) // 2
            self._past, self._paths = values[:half][-self.memory :], np.empty((0, 0))
            self.history_scores = np.r_[np.zeros(half), self.score(values[half:])]
            return self
        self._center, self._scale = scale_of(values)
        n = 1 + self.lags + (2 if self.season else 0)
        self._weights, self._covariance = np.zeros(n), PRIOR_VARIANCE * np.eye(n)
        self._ring = np.zeros(max(self.lags, self.season) + 1)
        self._noise = np.array([PRIOR_DOF, PRIOR_DOF, 0.0])  # degrees of freedom, their sum of squares, rows so far
        self.history_scores = self.score(values)
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """-log10 of the two-sided predictive tail of the rows that follow. Raises SchemaError if one is not finite."""
        rows = checked_history(values, rows=0)
        if self.forecaster:
            return np.array([self._forecast_surprise(value) for value in rows])
        x = (rows - self._center) / self._scale
        t, dof = np.empty(len(x)), np.empty(len(x))
        _regress(
            x, self._ring, self._weights, self._covariance, self._noise, self.lags, self.season, self.discount, t, dof
        )
        return tail_surprise(stdtr(dof, -np.abs(t)))

    def _forecast_surprise(self, value: float) -> float:
        if not self._paths.size:
            assert self.forecaster is not None
            self._paths = self.forecaster(self._past).paths[0].T  # (horizon, draw): the first row is the next one
        now, self._paths = self._paths[0], self._paths[1:]
        self._past = np.r_[self._past, value][-self.memory :]
        return float(tail_surprise(_rank(now, value, axis=0)))


def _rank(draws: np.ndarray, actual: np.ndarray | float, axis: int) -> np.ndarray:
    """Rank of the actual value among the draws in (0, 1), ties counted half."""
    below, equal = (draws < actual).sum(axis=axis), (draws == actual).sum(axis=axis)
    return np.asarray((below + 0.5 * equal + 0.5) / (draws.shape[axis] + 1))


@njit(cache=True)
def _regress(x, ring, weights, covariance, noise, lags, season, discount, t, dof):  # type: ignore[no-untyped-def]
    """One-step Student t statistics of x and their degrees of freedom; the state is changed in place."""
    n, size, limit = weights.size, ring.size, weights.size * MOST_VARIANCE
    phi, gain = np.empty(n), np.empty(n)
    phi[0] = 1.0
    for row in range(x.size):
        now = int(noise[2]) % size
        for lag in range(1, lags + 1):
            phi[lag] = ring[(now - lag) % size]
        if season > 0:
            phi[lags + 1] = ring[(now - season) % size]
            phi[lags + 2] = ring[(now - season + 1) % size] if season > 1 else 0.0
        mean, spread, trace = 0.0, 1.0, 0.0
        for i in range(n):  # loops: matrix products would take ten seconds to compile
            gain[i] = 0.0
            for j in range(n):
                gain[i] += covariance[i, j] * phi[j]
            mean += weights[i] * phi[i]
            spread += phi[i] * gain[i]
        error = x[row] - mean
        t[row], dof[row] = error / math.sqrt(spread * noise[1] / noise[0]), noise[0]
        noise[0] = discount * noise[0] + 1.0
        noise[1] = discount * noise[1] + error * error / spread
        for i in range(n):
            weights[i] += gain[i] * error / spread
            for j in range(n):
                covariance[i, j] -= gain[i] * gain[j] / spread
            trace += covariance[i, i]
        if trace < limit:  # no wind-up where the signal stands still
            for i in range(n):
                for j in range(n):
                    covariance[i, j] /= discount
        ring[now] = x[row]
        noise[2] += 1.0
