"""Runway: when the paths first cross the capacity, how many never do, and the straight line that capacity plans start from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import invgauss, linregress, norm

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast
from support.writing import plural

__all__ = ["FirstPassage", "Runway", "brownian_first_passage", "runway", "straight_line_runway"]

DAY_SECONDS = 86_400.0
DAY = pd.Timedelta(days=1)


@dataclass(frozen=True)
class Runway:
    """First-passage times of one series: days (n_draw,) from the issue of the forecast, infinite where a path never crosses.

    horizon_days: how far the paths reach; a path that has not crossed by then is censored there, not safe.
    """

    days: np.ndarray
    horizon_days: float

    @property
    def never_frac(self) -> float:
        """Share of the paths that do not cross within the horizon."""
        return float(np.isinf(self.days).mean())

    def quantile(self, level: float) -> float:
        """Days by which a share `level` of the paths has crossed; infinite if that is beyond the horizon (censored)."""
        if not 0 < level < 1:
            raise SchemaError(f"runway: level {level} must lie between 0 and 1.")
        ordered = np.sort(self.days)
        return float(ordered[max(math.ceil(level * len(ordered) - 1e-9), 1) - 1])

    def within(self, lead_time_days: float) -> float:
        """Probability that capacity is exhausted within the lead time. Raises SchemaError beyond the horizon."""
        if not 0 <= lead_time_days <= self.horizon_days + 1e-9:
            raise SchemaError(
                f"runway: a lead time of {plural(lead_time_days, 'day')}; the paths reach {self.horizon_days:g}. Lengthen the horizon."
            )
        return float((self.days <= lead_time_days + 1e-9).mean())

    def told(self, level: float) -> str:
        """The quantile in words: `23 days`, or `more than 90 days` if it is censored."""
        days = self.quantile(level)
        return (
            f"more than {plural(round(self.horizon_days), 'day')}" if math.isinf(days) else plural(round(days), "day")
        )


def runway(forecast: Forecast, capacity: float | np.ndarray, *, series: int = 0) -> Runway:
    """Days until each path of one series first exceeds `capacity`, one number or (horizon,), in its unit.

    Raises SchemaError for a capacity that is missing: no path would ever exceed it.

    Example:
        >>> f = Forecast.from_paths(np.array([[[1.0, 3.0], [1.0, 1.0]]]), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                         step_seconds=86_400, unit="cores", model="two paths")
        >>> found = runway(f, 2.0)
        >>> found.days.tolist(), found.never_frac, found.told(0.9)
        ([2.0, inf], 0.5, 'more than 2 days')
    """
    limit = np.asarray(capacity, dtype=float)
    if np.isnan(limit).any():
        raise SchemaError("runway: the capacity is missing (NaN). Give it in the unit of the demand.")
    over = forecast.paths[series] > limit
    steps = np.where(over.any(axis=1), over.argmax(axis=1) + 1.0, np.inf)
    return Runway(steps * forecast.step_seconds / DAY_SECONDS, over.shape[1] * forecast.step_seconds / DAY_SECONDS)


def straight_line_runway(history: pd.Series, capacity: float) -> float:
    """Days from the last value until the least-squares line through `history` (n_time,) meets `capacity`.

    Infinite if the line does not rise; 0 if it is there already. The rule of most dashboards: a median without a spread.
    Raises TooShortError for fewer than three values, SchemaError for a missing one.

    Example:
        >>> rising = pd.Series([1.0, 2.0, 3.0], pd.date_range("2026-01-01", periods=3, freq="1D", tz="UTC"))
        >>> round(straight_line_runway(rising, 5.0), 9)
        2.0
    """
    if len(history) < 3:
        raise TooShortError(f"straight line: {len(history)} values; at least 3 are needed.")
    if not (np.isfinite(history.to_numpy(float)).all() and math.isfinite(capacity)):
        raise SchemaError("straight line: values or capacity are missing or infinite. Fill the gaps first.")
    days = np.asarray((history.index - history.index[-1]) / DAY, dtype=float)
    line = linregress(days, history.to_numpy(float))
    if line.intercept >= capacity:
        return 0.0
    return float((capacity - line.intercept) / line.slope) if line.slope > 0 else math.inf


@dataclass(frozen=True)
class FirstPassage:
    """Probabilities that a drifting random walk crosses, and its passage time's mean and variance (infinite without drift)."""

    p_by_horizon: float
    p_at_horizon: float
    mean_days: float
    var_days: float


def brownian_first_passage(
    *, headroom: float, drift_per_day: float, sd_per_sqrt_day: float, horizon_days: float
) -> FirstPassage:
    """The closed form to check a simulated runway against: a random walk with drift, at first `headroom` below capacity.

    p_by_horizon: it has crossed at some time up to the horizon; p_at_horizon: it is above at that time, which is what a
    marginal quantile sees. drift may be zero or negative. Source: Chhikara and Folks (1989), the inverse Gaussian law.

    Example:
        >>> found = brownian_first_passage(headroom=30, drift_per_day=0.5, sd_per_sqrt_day=3, horizon_days=30)
        >>> round(found.p_by_horizon, 6), round(found.p_at_horizon, 6), found.mean_days, found.var_days
        (0.267131, 0.180655, 60.0, 2160.0)
    """
    if headroom <= 0 or sd_per_sqrt_day <= 0 or horizon_days <= 0:
        raise SchemaError("first passage: headroom, deviation and horizon must be positive.")
    spread = sd_per_sqrt_day * math.sqrt(horizon_days)
    at = float(norm.sf((headroom - drift_per_day * horizon_days) / spread))
    if drift_per_day > 0:
        mean, shape = headroom / drift_per_day, headroom**2 / sd_per_sqrt_day**2
        by = float(invgauss.cdf(horizon_days, mean / shape, scale=shape))
        return FirstPassage(by, at, mean, headroom * sd_per_sqrt_day**2 / drift_per_day**3)
    reflected = math.exp(2 * drift_per_day * headroom / sd_per_sqrt_day**2)
    by = at + reflected * float(norm.cdf((-headroom - drift_per_day * horizon_days) / spread))
    return FirstPassage(by, at, math.inf, math.inf)
