"""Conformal repair of prediction intervals: widen or narrow them by how they failed on past windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from support.errors import TooShortError
from support.forecast import Forecast

__all__ = ["conformalize"]


def conformalize(
    forecast: Forecast, past: Sequence[tuple[Forecast, np.ndarray]], *, rng: np.random.Generator
) -> Forecast:
    """Shift each quantile by the matching quantile of past misses, in units of the interval's own 50 % width.

    past: (forecast, observed (n_series, n_horizon)) of windows that ended before `forecast` was issued. Quantiles are
    sorted and kept at or above zero; paths keep their rank dependence, over steps and series. Raises TooShortError with fewer than 20 past
    points per level. Source: conformalised quantile regression, Romano, Patterson and Candes (2019), one-sided, pooled.
    """
    points = sum(observed.size for _, observed in past)
    if points < 20:
        raise TooShortError(f"conformal: {points} past points, at least 20 are needed. Add calibration windows.")
    adjusted = np.empty_like(forecast.quantiles)
    for position, level in enumerate(forecast.levels):
        misses = np.concatenate([((y - f.quantiles[..., position]) / _width(f)).ravel() for f, y in past])
        upper = min(1.0, max(level, 1 - level) * (1 + 1 / len(misses)))
        rank = upper if level > 0.5 else 1 - upper if level < 0.5 else 0.5
        adjusted[..., position] = forecast.quantiles[..., position] + np.quantile(misses, rank) * _width(forecast)
    adjusted = np.maximum(np.sort(adjusted, axis=-1), 0.0)
    return Forecast.from_quantiles(
        adjusted, forecast.levels, forecast.paths, issued_at=forecast.issued_at, step_seconds=forecast.step_seconds,
        unit=forecast.unit, model=f"{forecast.model}, conformal", rng=rng, series=forecast.series,
    )  # fmt: skip


def _width(forecast: Forecast) -> np.ndarray:
    """Width of the 50 % interval, (n_series, n_horizon), never zero."""
    lower, upper = forecast.interval(0.5)
    return np.maximum(upper - lower, 1e-9 * (1 + np.abs(upper)))
