"""Which metric is guilty: one score per metric and row, from a quiet history of all metrics together."""

from __future__ import annotations

from typing import Literal, Self, get_args

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from support.errors import SchemaError, TooShortError

__all__ = ["MetricAttribution", "guilty_hit_rate"]

Method = Literal["marginal", "pca", "conditional"]
PCA_VARIANCE_SHARE = 0.9
ROWS_PER_METRIC = 2


class MetricAttribution:
    """Squared surprise of each metric in each row; their sum is the anomaly score of the row.

    method "marginal": squared distance from the metric's own mean in standard deviations. "pca": squared residual of
    the standardised row after its principal components (90 % of the variance), which sees broken relations but smears
    them. "conditional": squared distance from what all other metrics of the row predict, in its own conditional
    standard deviations: (P z)_j^2 / P_jj with the precision matrix P of the standardised metrics, shrunk as of Ledoit
    and Wolf (2004). A metric that never moved in the history keeps its unit. A row is judged alone, so batch and
    stream are one.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 1)) + 0.1 * np.random.default_rng(1).normal(size=(200, 4))
        >>> MetricAttribution("conditional").fit(x).contributions(np.array([[1.0, 1.0, -1.0, 1.0]])).argmax()
        np.int64(2)
    """

    def __init__(self, method: Method = "conditional") -> None:
        if method not in get_args(Method):
            raise SchemaError(f"attribution: method {method!r} is not one of {', '.join(get_args(Method))}.")
        self.method = method

    def fit(self, history: np.ndarray) -> Self:
        """Learn from rows (n, n_metrics) without incidents. Raises SchemaError, TooShortError."""
        values = self._checked(history)
        n, n_metrics = values.shape
        if n < ROWS_PER_METRIC * n_metrics:
            raise TooShortError(
                f"attribution: {n} rows for {n_metrics} metrics; give at least {ROWS_PER_METRIC} a metric."
            )
        varies = values.max(axis=0) > values.min(axis=0)  # the deviation of equal values is rounding, not always 0
        self._center, self._scale = values.mean(axis=0), np.where(varies, values.std(axis=0), 1.0)
        z = (values - self._center) / self._scale
        identity = np.eye(n_metrics)
        if self.method == "pca":
            axes = PCA(n_components=PCA_VARIANCE_SHARE).fit(z).components_
            self._map = identity - axes.T @ axes
        elif self.method == "conditional":
            precision = LedoitWolf(assume_centered=True).fit(z).precision_
            self._map = precision / np.sqrt(np.diag(precision))
        else:
            self._map = identity
        return self

    def contributions(self, values: np.ndarray) -> np.ndarray:
        """Squared surprise (n, n_metrics) of rows (n, n_metrics); non-negative, without unit."""
        return np.asarray((((self._checked(values) - self._center) / self._scale) @ self._map) ** 2)

    def score(self, values: np.ndarray) -> np.ndarray:
        """Anomaly score (n,) of each row: the mean of its metrics' contributions, near 1 or below in quiet times."""
        return self.contributions(values).mean(axis=1)

    def guilty(self, values: np.ndarray) -> np.ndarray:
        """Metric numbers (n_metrics,) of an incident's rows, guiltiest first."""
        return np.argsort(-self.contributions(values).mean(axis=0), kind="stable")

    @staticmethod
    def _checked(values: np.ndarray) -> np.ndarray:
        x = np.asarray(values, dtype=float)
        if x.ndim != 2 or not np.isfinite(x).all():
            raise SchemaError("attribution: values must be (rows, metrics) and finite; fill gaps or drop the metric.")
        return x


def guilty_hit_rate(ranking: np.ndarray, guilty: np.ndarray, share: float = 1.0) -> float:
    """Share of the guilty metrics among the first `share` x len(guilty) of the ranking (HitRate@P, Su et al. 2019).

    Example:
        >>> guilty_hit_rate(np.array([3, 1, 0, 2]), np.array([1, 2]))
        0.5
    """
    first = ranking[: int(np.floor(share * len(guilty)))]
    return float(np.isin(guilty, first).mean())
