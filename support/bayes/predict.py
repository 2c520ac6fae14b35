"""Posterior predictive distribution of one resource, seen or new: intervals, breach probability, size, paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, expit, ndtr

from support.bayes.autocorrelation import HOURS_PER_DAY, HOURS_PER_WEEK
from support.bayes.statistics import seasonal_basis
from support.errors import SourceError
from support.forecast import Forecast

__all__ = ["Prediction"]

HOUR_SECONDS = 3600
SIZE_TOLERANCE = 1e-4  # of a size factor
TINY, HUGE = 1e-6, 1e9  # shape parameters of a Beta that the quantile function still carries


@dataclass(frozen=True)
class Prediction:
    """What is known about one resource: joint draws of the parameters of its distribution in every hour cell.

    mean: (n_samples, n_hour_cell) mean of the inner part, in (0, 1); kappa: (n_samples,) its precision. zero,
    saturated: (n_samples,) shares of intervals at zero and at capacity. capacity: what 1 is in `unit`.
    autocorrelation: lag-1, of neighbouring intervals of `step_seconds`. who: what was known and what came from a prior.

    Example:
        >>> p = Prediction(np.full((2, 24), 0.5), np.full(2, 2.0), np.zeros(2), np.zeros(2), 100.0, "percent", 0.5, 3600.0,
        ...                "uniform")
        >>> round(p.breach_probability(80.0), 3), round(p.smallest_size(80.0, 0.05), 2)
        (0.2, 1.19)
    """

    mean: np.ndarray
    kappa: np.ndarray
    zero: np.ndarray
    saturated: np.ndarray
    capacity: float
    unit: str
    autocorrelation: float
    step_seconds: float
    who: str

    @property
    def expected(self) -> np.ndarray:
        """Draws of the expected value in each hour cell, edges included, in `unit`: (n_samples, n_hour_cell)."""
        inner = 1 - self.zero - self.saturated
        return self.capacity * (inner[:, None] * self.mean + self.saturated[:, None])

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Central credible interval of the resource's mean over all hours, in `unit`."""
        low, high = np.quantile(self.expected.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def samples(self, *, rng: np.random.Generator) -> np.ndarray:
        """One value of every hour cell per parameter draw, in `unit`: (n_samples, n_hour_cell)."""
        return self._values(rng.random(self.mean.shape), self.mean)

    def value_interval(self, level: float = 0.9, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Central predictive interval of single values in each hour cell, (n_hour_cell,) lower and upper, in `unit`."""
        low, high = np.quantile(self.samples(rng=rng), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def _values(self, uniform: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Quantiles of the two-part distribution at `uniform` (n_samples, n), in `unit`."""
        zero, saturated, kappa = self.zero[:, None], self.saturated[:, None], self.kappa[:, None]
        inner = np.clip((uniform - zero) / np.maximum(1 - zero - saturated, 1e-12), 0, 1)
        value = betaincinv(np.clip(mean * kappa, TINY, HUGE), np.clip((1 - mean) * kappa, TINY, HUGE), inner)
        return self.capacity * np.where(uniform < zero, 0.0, np.where(uniform > 1 - saturated, 1.0, value))

    def breach_probability(self, limit: float, *, size: float = 1.0, hours: np.ndarray | None = None) -> float:
        """Probability that an interval's value exceeds `limit` (in `unit`) if capacity were `size` times the present one.

        Averaged over posterior draws and over `hours` (positions of hour cells, all by default). Demand beyond today's
        capacity was never seen, so that a saturated interval counts as a breach at every size.
        """
        mean = self.mean if hours is None else self.mean[:, hours]
        at = limit / self.capacity * size
        kappa = self.kappa[:, None]
        over = 1 - betainc(
            np.clip(mean * kappa, TINY, HUGE), np.clip((1 - mean) * kappa, TINY, HUGE), min(max(at, 0.0), 1.0)
        )
        inner = 1 - self.zero - self.saturated
        return float((self.saturated + inner * over.mean(axis=1)).mean())

    def smallest_size(self, limit: float, probability: float, *, hours: np.ndarray | None = None) -> float:
        """Smallest capacity factor at which values exceed `limit` with at most `probability`; 1 is the present size.

        Demand is taken as independent of size. Infinite if saturated intervals alone are likelier than that, since how
        much they wanted is unknown. Raises SourceError for a limit or probability out of range.
        """
        if not 0 < limit <= self.capacity or not 0 < probability < 1:
            raise SourceError(
                f"limit {limit:g} and probability {probability:g}: the limit must lie in (0, {self.capacity:g}] {self.unit}, "
                "the probability in (0, 1)."
            )
        largest = self.capacity / limit

        def excess(size: float) -> float:
            return self.breach_probability(limit, size=size, hours=hours) - probability

        if excess(largest) > 0:
            return float("inf")
        smallest = SIZE_TOLERANCE * largest
        return smallest if excess(smallest) <= 0 else float(brentq(excess, smallest, largest, xtol=SIZE_TOLERANCE))

    def forecast(
        self, *, issued_at: pd.Timestamp, n_horizon: int, rng: np.random.Generator, series: str = "demand"
    ) -> Forecast:
        """Joint paths of the next `n_horizon` intervals: one parameter draw each, intervals tied by an AR(1) copula.

        The copula has the fleet's lag-1 correlation and starts in its stationary state, so that the last observed value
        does not steer the first hours; for that see the forecasting chapters.
        """
        n_samples, n_cell = self.mean.shape
        step = pd.Timedelta(seconds=self.step_seconds)
        times = pd.date_range(issued_at + step, periods=n_horizon, freq=step).tz_convert("UTC")
        week = n_cell == HOURS_PER_WEEK
        cell = (times.dayofweek * HOURS_PER_DAY + times.hour if week else times.hour).to_numpy()
        noise = rng.standard_normal((n_samples, n_horizon))
        r = self.autocorrelation
        for t in range(1, n_horizon):
            noise[:, t] = r * noise[:, t - 1] + np.sqrt(1 - r**2) * noise[:, t]
        paths = self._values(ndtr(noise), self.mean[:, cell])
        return Forecast.from_paths(
            paths[None], issued_at=issued_at, step_seconds=self.step_seconds, unit=self.unit, model="hierarchical",
            series=(series,),
        )  # fmt: skip


def hourly_mean(theta: np.ndarray, b: np.ndarray, n_hour_cell: int) -> np.ndarray:
    """Mean of the inner part from the level (n,) and season (n, n_basis): (n, n_hour_cell)."""
    return expit(theta[:, None] + b @ seasonal_basis(n_hour_cell).T)
