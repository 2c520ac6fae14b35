"""Draws of the hourly demand of the coming years from one past year or more, growth left as open as it is."""

from __future__ import annotations

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError

__all__ = ["posterior_demand"]

HOURS_PER_WEEK, WEEKS_PER_YEAR = 168, 52
GROWTH_SD_PER_YEAR = 0.3  # log units, prior of the yearly growth: this book's assumption
WEEKLY_NOISE_SD, NOISE_PRIOR_WEEKS = 0.1, 4  # log units, and what that prior weighs: this book's assumptions
MIN_WEEKS = 4  # to tell weeks apart from noise


def posterior_demand(
    history: pd.Series,
    *,
    rng: np.random.Generator,
    years: int = 3,
    n_draws: int = 50,
    growth_sd_per_year: float = GROWTH_SD_PER_YEAR,
) -> np.ndarray:
    """Draws of hourly demand for the coming years, (n_draws, years, 8736), from hourly history in whole weeks.

    The logarithm of the weekly mean is a line in time plus noise. Its growth has the prior N(0, growth_sd_per_year^2),
    so that a few weeks do not pretend to know three years; the variance of the noise has a weak prior (as four weeks of
    0.1). Every future week has its own noise and the shape of a past week drawn at random. A yearly season is not told
    from growth by a single year.
    Raises TooShortError below four weeks and SchemaError for negative or missing demand, or a week without any.

    Example:
        >>> hours = pd.Series(np.full(5 * 168, 10.0))
        >>> posterior_demand(hours, rng=np.random.default_rng(1), years=2, n_draws=3).shape
        (3, 2, 8736)
    """
    values = history.to_numpy(dtype=float)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise SchemaError("history must hold finite numbers of at least 0. Fill gaps first.")
    n_weeks = len(values) // HOURS_PER_WEEK
    if n_weeks < MIN_WEEKS:
        raise TooShortError(
            f"{len(values)} hours of history; commitments need {MIN_WEEKS} weeks, {MIN_WEEKS * 168} hours."
        )
    weeks = values[-n_weeks * HOURS_PER_WEEK :].reshape(n_weeks, HOURS_PER_WEEK)
    mean = weeks.mean(axis=1)
    if not (mean > 0).all():
        raise SchemaError("history has a week without any demand; its growth has no logarithm. Leave such weeks out.")
    at = np.arange(n_weeks) - n_weeks + 1.0  # the last week is 0
    line = np.column_stack([np.ones(n_weeks), at / WEEKS_PER_YEAR])
    fitted = np.linalg.lstsq(line, np.log(mean), rcond=None)[0]
    squares = float(((np.log(mean) - line @ fitted) ** 2).sum()) + NOISE_PRIOR_WEEKS * WEEKLY_NOISE_SD**2
    noise = squares / rng.chisquare(n_weeks - 2 + NOISE_PRIOR_WEEKS, size=n_draws)
    drawn = np.empty((n_draws, 2))
    for k, variance in enumerate(noise):
        covariance = np.linalg.inv(line.T @ line / variance + np.diag([0.0, growth_sd_per_year**-2]))
        drawn[k] = rng.multivariate_normal(covariance @ line.T @ np.log(mean) / variance, covariance)
    ahead = np.arange(1, years * WEEKS_PER_YEAR + 1)
    level = drawn[:, :1] + drawn[:, 1:] * ahead / WEEKS_PER_YEAR
    level = np.exp(level + np.sqrt(noise)[:, None] * rng.normal(size=level.shape))
    shape = (weeks / mean[:, None])[rng.integers(n_weeks, size=level.shape)]
    return (level[..., None] * shape).reshape(n_draws, years, -1)
