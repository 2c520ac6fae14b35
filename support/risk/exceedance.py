"""Exceedance: what the sample paths of a demand say about a capacity, from one step to the peak of the whole horizon.

u is demand, C the usable capacity: nominal capacity x target utilisation x available share. A breach is a step with u > C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecast import Forecast

__all__ = ["Exceedance", "cvar", "exceedance", "grown", "value_at_risk"]

SECONDS_PER_HOUR = 3600.0
YEAR = pd.Timedelta(days=365.25)
ROUNDING = 1e-9  # of level x draws: 0.07 x 100 is 7.000000000000001


def value_at_risk(draws: np.ndarray, level: float) -> float:
    """VaR, here capacity at risk (CaR): the smallest draw that at least `level` of the `draws` (n_draw,) do not exceed.

    In the unit of the draws. Raises SchemaError outside 0 < level < 1 or for draws that are not finite.

    Example:
        >>> value_at_risk(np.arange(1, 101), 0.95)
        95.0
    """
    ordered = np.sort(_draws(draws, level))
    return float(ordered[max(int(np.ceil(level * len(ordered) - ROUNDING)), 1) - 1])


def cvar(draws: np.ndarray, level: float) -> float:
    """CVaR or expected shortfall: the mean of the worst 1 - `level` of the `draws` (n_draw,), the atom at VaR split.

    Raises as `value_at_risk`. Source: Rockafellar and Uryasev (2002), Journal of Banking and Finance 26.

    Example:
        >>> cvar(np.arange(1, 101), 0.95)
        98.0
    """
    at_risk = value_at_risk(draws, level)
    return at_risk + float(np.maximum(_draws(draws, level) - at_risk, 0.0).mean()) / (1 - level)


def _draws(draws: np.ndarray, level: float) -> np.ndarray:
    values = np.asarray(draws, dtype=float).ravel()
    if not 0 < level < 1:
        raise SchemaError(f"level {level} must lie between 0 and 1; for the 95 % quantile write 0.95.")
    if not values.size or not np.isfinite(values).all():
        raise SchemaError(f"draws: {values.size} values, some not finite. Give at least one finite draw.")
    return values


@dataclass(frozen=True)
class Exceedance:
    """The breaches of one capacity by the sample paths of one series.

    capacity (horizon,) and peaks (n_draw,), the highest demand of each path, in the unit of demand. p_point (horizon,):
    probability of a breach at each step; p_by (horizon,): of at least one breach up to and including it. breach_hours
    (n_draw,): hours in breach. unserved (n_draw,): demand above capacity, in unit x hours.
    """

    capacity: np.ndarray
    p_point: np.ndarray
    p_by: np.ndarray
    breach_hours: np.ndarray
    unserved: np.ndarray
    peaks: np.ndarray

    @property
    def p_any(self) -> float:
        """Probability of at least one breach within the horizon."""
        return float(self.p_by[-1])

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of p_any that comes from the number of draws alone, with half a breach added to be safe at 0."""
        n = len(self.peaks)
        share = (n * self.p_any + 0.5) / (n + 1)
        return float(np.sqrt(share * (1 - share) / n))


def exceedance(forecast: Forecast, capacity: float | np.ndarray, *, series: int = 0) -> Exceedance:
    """Breaches of `capacity`, one number or (horizon,), by the paths of one series of `forecast`, in its unit.

    Joint paths are needed: the steps' probabilities alone do not give that of the horizon.
    Raises SchemaError for a capacity of another shape, not finite, or below zero.

    Example:
        >>> f = Forecast.from_paths(np.array([[[1.0, 3.0], [1.0, 1.0]]]), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                         step_seconds=1800, unit="cores", model="two paths")
        >>> found = exceedance(f, 2.0)
        >>> found.p_point.tolist(), found.p_any, found.breach_hours.tolist(), found.unserved.tolist()
        ([0.0, 0.5], 0.5, [0.5, 0.0], [0.5, 0.0])
    """
    paths = forecast.paths[series]
    limit = np.asarray(capacity, dtype=float)
    if limit.ndim > 1 or (limit.ndim == 1 and limit.shape != paths.shape[1:]) or not np.isfinite(limit).all():
        raise SchemaError(
            f"capacity of shape {limit.shape}: give one number, or one for each of {paths.shape[1]} steps."
        )
    if (limit < 0).any():
        raise SchemaError(f"capacity {limit.min():g} is below zero.")
    hours = forecast.step_seconds / SECONDS_PER_HOUR
    over = paths > limit
    return Exceedance(
        capacity=np.broadcast_to(limit, paths.shape[1:]),
        p_point=over.mean(axis=0),
        p_by=np.logical_or.accumulate(over, axis=1).mean(axis=0),
        breach_hours=over.sum(axis=1) * hours,
        unserved=np.maximum(paths - limit, 0.0).sum(axis=1) * hours,
        peaks=paths.max(axis=1),
    )


def grown(
    forecast: Forecast,
    *,
    per_year_frac: float | np.ndarray = 0.0,
    jump_frac: float = 0.0,
    jump_at: pd.Timestamp | None = None,
) -> Forecast:
    """The forecast under a growth scenario: every path is multiplied, so its shape and its uncertainty grow with it.

    per_year_frac: growth on top of the forecast's own, compounded by elapsed time; one number, or one a draw (n_draw,)
    if the growth itself is uncertain. jump_frac: a launch or a migration, from `jump_at` (UTC) on, from the first step
    if it is left out. Fractions: 0.2 is 20 %, not below -1. Raises SchemaError.

    Example:
        >>> f = Forecast.from_paths(np.ones((1, 1, 2)), issued_at=pd.Timestamp("2026-01-01", tz="UTC"), step_seconds=86_400,
        ...                         unit="cores", model="flat")
        >>> grown(f, jump_frac=0.5, jump_at=pd.Timestamp("2026-01-03", tz="UTC")).paths.tolist()
        [[[1.0, 1.5]]]
    """
    yearly = np.asarray(per_year_frac, dtype=float)
    if yearly.ndim > 1 or (yearly.ndim == 1 and yearly.shape != forecast.paths.shape[1:2]):
        raise SchemaError(f"growth of shape {yearly.shape}: give one number, or one for each of the draws.")
    if not ((yearly >= -1).all() and jump_frac >= -1):
        raise SchemaError("growth: fractions below -1 would make demand negative; 0.2 is 20 %.")
    elapsed = np.asarray((forecast.timestamps - forecast.issued_at) / YEAR, dtype=float)
    factor = (1 + np.atleast_1d(yearly)[:, None]) ** elapsed
    from_step = forecast.timestamps >= (forecast.timestamps[0] if jump_at is None else jump_at)
    paths = forecast.paths * (factor * np.where(from_step, 1 + jump_frac, 1.0))[None]
    return Forecast.from_paths(
        paths, issued_at=forecast.issued_at, step_seconds=forecast.step_seconds, unit=forecast.unit, model=forecast.model,
        levels=forecast.levels, series=forecast.series,
    )  # fmt: skip
