"""Forecasts for every tick of a window: what a simulated scaler reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from support.errors import SchemaError

__all__ = ["TICK_LEVELS", "RollingQuantiles"]

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
        if not self.levels[0] <= level <= self.levels[-1]:
            raise SchemaError(f"{self.model}: level {level:.4f} is outside {self.levels[0]}..{self.levels[-1]}.")
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
