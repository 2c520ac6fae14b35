"""Scores of point and quantile forecasts. Shapes: observations (n_horizon,), quantiles (n_horizon, n_level)."""

from __future__ import annotations

import numpy as np

from support.errors import SchemaError

__all__ = ["coverage", "coverage_of_ties", "crps", "mase", "pinball", "scaled_quantile_loss", "seasonal_scale"]


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


EDGE = 1e-9  # of a level: float error


def coverage(observed: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Share of observations inside [lower, upper], a fraction."""
    return float(((observed >= lower) & (observed <= upper)).mean())


def coverage_of_ties(observed: np.ndarray, quantiles: np.ndarray, levels: np.ndarray, share: float) -> float:
    """`coverage` of the central interval that holds `share`, where an observation that equals quantiles counts in part.

    observed: (...,), quantiles: (..., n_level), never decreasing, levels: (n_level,). An observation that equals the
    quantiles of levels a to b stands for all levels between (0 and 1 beyond the outermost), as in the randomised
    probability integral transform: it counts as the part of them inside the interval. So a forecast with the right
    probability of a value that comes again and again, such as 0, covers `share`, where `coverage` is above it.
    Source: Czado, Gneiting and Held (2009), Biometrics 65, section 2.1.

    Example:
        >>> often_zero = np.array([0.0, 0.0, 0.0, 5.0, 9.0])
        >>> coverage_of_ties(np.zeros(2), np.tile(often_zero, (2, 1)), np.array([0.05, 0.25, 0.5, 0.75, 0.95]), 0.9)
        0.9
    """
    seen = np.asarray(observed)[..., None]
    low, high = (1 - share) / 2, (1 + share) / 2
    grid = np.r_[0.0, levels, 1.0]
    below, up_to = (quantiles < seen).sum(axis=-1), (quantiles <= seen).sum(axis=-1)
    tied = up_to > below
    first = np.where(below == 0, 0.0, grid[below + 1])  # of the tied levels; from 0, if the lowest is one of them
    last = np.where(up_to == len(levels), 1.0, grid[up_to])
    part = np.clip(np.minimum(last, high) - np.maximum(first, low), 0.0, None)
    point = (first >= low - EDGE) & (first <= high + EDGE)  # tied with one level only
    of_ties = np.divide(part, last - first, out=point.astype(float), where=last > first)
    plain = (grid[below] >= low - EDGE) & (grid[np.minimum(below + 1, len(grid) - 1)] <= high + EDGE)
    return float(np.where(tied, of_ties, plain).mean())
