"""Scores of point and quantile forecasts. Shapes: observations (n_horizon,), quantiles (n_horizon, n_level)."""

from __future__ import annotations

import numpy as np

from support.errors import SchemaError

__all__ = ["coverage", "crps", "mase", "pinball", "scaled_quantile_loss", "seasonal_scale"]


def seasonal_scale(history: np.ndarray, season: int) -> float:
    """Mean absolute seasonal difference of the past, in its unit; SchemaError if it is zero or the past too short."""
    if len(history) <= season:
        raise SchemaError(f"scale: a past of {len(history)} values is no longer than the season of {season}.")
    scale = float(np.abs(history[season:] - history[:-season]).mean())
    if scale <= 0:
        raise SchemaError("scale: the past repeats itself exactly, so scaled errors are undefined.")
    return scale


def mase(observed: np.ndarray, point: np.ndarray, history: np.ndarray, season: int) -> float:
    """Mean absolute scaled error, dimensionless. Source: Hyndman and Koehler (2006).

    Example:
        >>> mase(np.array([3.0]), np.array([1.0]), np.array([0.0, 1.0, 2.0]), 1)
        2.0
    """
    return float(np.abs(observed - point).mean() / seasonal_scale(history, season))


def pinball(observed: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantile loss in the unit of the data, (n_horizon, n_level); more axes may come first. Source: Gneiting (2011).

    Example:
        >>> pinball(np.array([2.0]), np.array([[1.0]]), np.array([0.9])).tolist()
        [[0.9]]
    """
    error = observed[..., None] - quantiles
    return np.maximum(levels * error, (levels - 1) * error)


def scaled_quantile_loss(
    observed: np.ndarray, quantiles: np.ndarray, levels: np.ndarray, history: np.ndarray, season: int
) -> float:
    """Twice the mean pinball loss over the seasonal scale, dimensionless; its ratio to seasonal naive's is the relSQL."""
    return float(2 * pinball(observed, quantiles, levels).mean() / seasonal_scale(history, season))


def crps(observed: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of samples (n_draw, n_horizon), (n_horizon,), in the unit of the data.

    E|X - y| - E|X - X'| / 2 over all pairs of draws. Source: Gneiting and Raftery (2007), eq. 21.
    """
    ordered = np.sort(paths, axis=0)
    n = len(ordered)
    weights = (2 * np.arange(1, n + 1) - n - 1)[:, None]
    return np.abs(paths - observed).mean(axis=0) - (weights * ordered).sum(axis=0) / n**2


def coverage(observed: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Share of observations inside [lower, upper], a fraction."""
    return float(((observed >= lower) & (observed <= upper)).mean())
