"""Forecasts for every tick of a window: what a simulated scaler reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecast import ROUNDING
from support.writing import plural

__all__ = ["TICK_LEVELS", "RollingQuantiles", "observed_at", "require_whole"]

TICK_LEVELS = np.array([0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995])


@dataclass(frozen=True)
class RollingQuantiles:
    """Forecasts for every tick of a window; row i is issued before tick i, from data through tick i - 1 - lag_ticks.

    timestamps: (n_time,). quantiles: (n_time, n_horizon, n_level), column h is tick i + h, h = 0..n_horizon - 1.
    mean: (n_time, n_horizon). Both in the unit of the demand per tick.
    """

    timestamps: pd.DatetimeIndex
    levels: np.ndarray
    quantiles: np.ndarray
    mean: np.ndarray
    model: str
    lag_ticks: int

    def at(self, level: float) -> np.ndarray:
        """Quantile at `level`, (n_time, n_horizon), linear between levels. Raises SchemaError outside them."""
        if not self.levels[0] - ROUNDING <= level <= self.levels[-1] + ROUNDING:
            raise SchemaError(f"{self.model}: level {level:.4f} is outside {self.levels[0]}..{self.levels[-1]}.")
        level = min(max(level, self.levels[0]), self.levels[-1])
        if len(self.levels) == 1:
            return self.quantiles[..., 0].astype(np.float64)
        upper = max(1, int(np.searchsorted(self.levels, level)))
        weight = (level - self.levels[upper - 1]) / (self.levels[upper] - self.levels[upper - 1])
        return (1 - weight) * self.quantiles[..., upper - 1] + weight * self.quantiles[..., upper]

    def rows(self, first: int, end: int | None = None) -> RollingQuantiles:
        """The forecasts of rows `first` to `end` (exclusive; None: to the last).

        Example:
            >>> minutes = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
            >>> held = RollingQuantiles(minutes, np.array([0.1, 0.9]), np.zeros((3, 1, 2)), np.zeros((3, 1)), "none", 0)
            >>> len(held.rows(1).timestamps)
            2
        """
        cut = slice(first, end)
        return replace(self, timestamps=self.timestamps[cut], quantiles=self.quantiles[cut], mean=self.mean[cut])


def observed_at(rolling: RollingQuantiles, demand: pd.Series, name: str) -> np.ndarray:
    """`demand` at the ticks of `rolling`, (n_time,). Raises SchemaError, in the words of `name`, if some is missing.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=2, freq="60s", tz="UTC")
        >>> said = RollingQuantiles(minutes, np.array([0.5]), np.zeros((2, 1, 1)), np.zeros((2, 1)), "none", 0)
        >>> observed_at(said, pd.Series([1.0, 2.0], index=minutes), "mine").tolist()
        [1.0, 2.0]
    """
    seen = demand.reindex(rolling.timestamps).to_numpy(float)
    if np.isnan(seen).any():
        raise SchemaError(
            f"{name}: {int(np.isnan(seen).sum())} of the {len(seen)} timestamps of the forecast have no demand; "
            "forecast on the index of the demand, without gaps."
        )
    return seen


def require_whole(values: pd.Series, name: str) -> None:
    """Raise, in the words of `name`, unless `values` (n_time,) are finite and on one regular, increasing index.

    TooShortError for less than two values, SchemaError else: what has gaps must not pass for a series without any.

    Example:
        >>> require_whole(pd.Series([1.0, np.nan], index=pd.date_range("2026-01-01", periods=2, freq="1h")), "mine")
        Traceback (most recent call last):
        support.errors.SchemaError: mine: 1 value is missing, the first at 2026-01-01 01:00:00. Fill the grid first.
    """
    if len(values) < 2:
        raise TooShortError(f"{name}: {plural(len(values), 'value')}; at least two are needed to know the step.")
    steps = np.diff(pd.DatetimeIndex(values.index).asi8)
    if (uneven := np.flatnonzero((steps != steps[0]) | (steps <= 0))).size:
        raise SchemaError(
            f"{name}: the index is not regular, its step changes after {values.index[uneven[0]]}. Fill the grid first."
        )
    if (absent := np.flatnonzero(~np.isfinite(values.to_numpy(float)))).size:
        raise SchemaError(
            f"{name}: {plural(absent.size, 'value')} {'is' if absent.size == 1 else 'are'} missing, the first at "
            f"{values.index[absent[0]]}. Fill the grid first."
        )
