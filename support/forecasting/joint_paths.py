"""Joint paths from the quantiles of any model: a Gaussian copula of past forecasts' ranks, for when past windows are few.

With many past error vectors the Schaake shuffle of `Forecast.from_quantiles` takes their ranks as they are; with few,
a path could only repeat those few orders. Here a correlation by lag is estimated from the past PIT values instead, and
its normal draws are the templates of the same shuffle, so the marginals stay the model's quantiles.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.linalg import toeplitz
from scipy.stats import norm, rankdata

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast

__all__ = ["copula_paths", "pit_values", "rank_correlation", "with_tails"]

TAIL_LEVELS = np.array([0.0005, 0.001, 0.005, 0.01])  # and their mirror images: where paths go beyond the outer levels
SHRINKAGE_WINDOWS = 3.0  # past windows at which the correlation by lag weighs as much as that of one coefficient
HIGHEST = 0.999  # lag-1 correlation; at one the paths would be straight lines
SMALLEST_EIGENVALUE = 1e-8  # of the correlation, so that it has a root


def with_tails(
    quantiles: np.ndarray, levels: np.ndarray, *, lowest: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles (..., n_level) and levels with further levels 0.0005 to 0.01, and their mirrors, outside the outer two.

    The stated rule: beyond the outer levels the quantile goes on as a normal's would, linear in the normal score with the
    slope of the two outermost levels. lowest: a bound of the quantity, such as 0, below which no quantile falls.
    Raises SchemaError with fewer than two levels.

    Example:
        >>> wide, levels = with_tails(norm.ppf([0.025, 0.05, 0.5, 0.95, 0.975]), np.array([0.025, 0.05, 0.5, 0.95, 0.975]))
        >>> bool(np.allclose(wide, norm.ppf(levels))), len(levels)
        (True, 13)
    """
    levels = np.asarray(levels, dtype=float)
    if len(levels) < 2:
        raise SchemaError(f"tails: levels {levels.tolist()}; at least two are needed for a slope.")
    score = norm.ppf(levels)
    mirrored = 1 - TAIL_LEVELS[::-1]
    low, high = TAIL_LEVELS[levels[0] > TAIL_LEVELS], mirrored[levels[-1] < mirrored]

    def beyond(added: np.ndarray, edge: int, inner: int) -> np.ndarray:
        slope = (quantiles[..., edge] - quantiles[..., inner]) / (score[edge] - score[inner])
        return np.asarray(quantiles[..., edge, None] + slope[..., None] * (norm.ppf(added) - score[edge]))

    wide = np.concatenate([beyond(low, 0, 1), quantiles, beyond(high, -1, -2)], axis=-1)
    if lowest is not None:
        wide = np.maximum(wide, lowest)
    return wide, np.concatenate([low, levels, high])


def pit_values(
    observed: np.ndarray, quantiles: np.ndarray, levels: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Probability integral transform of what was observed (...), from quantiles (..., n_level); uniform if calibrated.

    Linear between the levels of `with_tails`, held at their outermost beyond; where quantiles coincide with the
    observation, uniform between their levels, so that a point mass does no harm. Source: Dawid (1984); randomised as
    Czado, Gneiting and Held (2009), Biometrics 65.

    Example:
        >>> pit_values(np.array([0.0]), np.array([[-1.0, 0.0, 1.0]]), np.array([0.25, 0.5, 0.75]),
        ...            rng=np.random.default_rng(0)).tolist()
        [0.5]
    """
    wide, grid = with_tails(quantiles, levels)
    y = np.asarray(observed, dtype=float)[..., None]
    below, upto = (wide < y).sum(axis=-1), (wide <= y).sum(axis=-1)
    last = len(grid) - 1

    def level_at(count: np.ndarray) -> np.ndarray:
        left = np.clip(count - 1, 0, last - 1)
        q0, q1 = (np.take_along_axis(wide, (left + k)[..., None], axis=-1)[..., 0] for k in (0, 1))
        share = np.clip(np.divide(y[..., 0] - q0, q1 - q0, out=np.zeros_like(q0), where=q1 > q0), 0.0, 1.0)
        return np.asarray(grid[left] + share * (grid[left + 1] - grid[left]))

    tied = upto > below
    first, final = grid[np.clip(below, 0, last)], grid[np.clip(upto - 1, 0, last)]
    return np.where(tied, first + rng.random(first.shape) * (final - first), level_at(below))


def rank_correlation(pits: np.ndarray, *, shrink: bool = True) -> np.ndarray:
    """Correlation (horizon, horizon) of the normal scores of past PIT values (n_past, horizon), one for each lag.

    The correlation at a lag is the mean product over all pairs of steps that far apart, over the mean square; with
    `shrink`, and n past windows, n / (n + 3) of it and 3 / (n + 3) of what the lag-1 correlation alone implies. What
    is not positive definite loses its negative eigenvalues; PIT values that are all the same give independence. Raises SchemaError, TooShortError (fewer than two steps).
    """
    pits = np.asarray(pits, dtype=float)
    if pits.ndim != 2 or pits.shape[1] < 2 or not len(pits):
        raise TooShortError(f"copula: PIT values of shape {pits.shape}; at least one window of two steps is needed.")
    if not np.isfinite(pits).all() or (pits <= 0).any() or (pits >= 1).any():
        raise SchemaError("copula: PIT values must lie in (0, 1).")
    n_past, horizon = pits.shape
    z = norm.ppf(
        (rankdata(pits) / (pits.size + 1)).reshape(pits.shape)
    )  # ranks over all: their margin is no matter here
    mean_square = (z**2).mean()
    if mean_square == 0:  # all the same: nothing tells of dependence
        return np.eye(horizon)
    by_lag = np.array([(z[:, : horizon - k] * z[:, k:]).mean() for k in range(horizon)]) / mean_square
    if shrink:
        one = np.clip(by_lag[1], -HIGHEST, HIGHEST)
        weight = n_past / (n_past + SHRINKAGE_WINDOWS)
        by_lag = weight * by_lag + (1 - weight) * one ** np.arange(horizon)
    return _positive(toeplitz(np.clip(by_lag, -1.0, 1.0)))


def copula_paths(
    quantiles: np.ndarray, levels: np.ndarray, correlation: np.ndarray, *, n_draws: int, issued_at: pd.Timestamp,
    step_seconds: float, unit: str, model: str, rng: np.random.Generator, series: tuple[str, ...] = ("demand",),
    lowest: float | None = None,
) -> Forecast:  # fmt: skip
    """Joint paths for quantiles (n_series, horizon, n_level) by a Gaussian copula with `correlation` over the steps.

    Stratified, so that the share of the draws below each given quantile is its level to within 1 / n_draws. Tails and
    `lowest` as `with_tails`; the forecast keeps the levels given, its quantiles above `lowest`. Each series has draws of its own.
    Raises SchemaError if shapes do not fit. Source: Pinson et al. (2009), Wind Energy 12, section 3.
    """
    horizon = quantiles.shape[1]
    if correlation.shape != (horizon, horizon):
        raise SchemaError(f"copula: a correlation of {correlation.shape} for a horizon of {horizon} steps.")
    wide, grid = with_tails(quantiles, levels, lowest=lowest)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    paths = [
        Forecast.from_quantiles(
            wide[[k]], grid, rng.standard_normal((n_draws, horizon)) @ root.T, issued_at=issued_at,
            step_seconds=step_seconds, unit=unit, model=model, rng=rng,
        ).paths[0]
        for k in range(len(quantiles))
    ]  # fmt: skip
    kept = quantiles if lowest is None else np.maximum(quantiles, lowest)
    return Forecast(kept, np.asarray(levels), np.stack(paths), issued_at, step_seconds, unit, model, series)


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest correlation by clipped eigenvalues. Source: Rebonato and Jackel (1999), spectral decomposition."""
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < SMALLEST_EIGENVALUE:
        matrix = (vectors * np.maximum(values, SMALLEST_EIGENVALUE)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(matrix))
    return np.asarray(matrix * scale[:, None] * scale)
