"""Local forecasters: each sees one series' past and returns quantiles, all through one call signature.

`(context, horizon, season, levels, rng) -> (horizon, n_level)`: context (n_time,) oldest first, horizon and season in
steps, levels (n_level,) in (0, 1); quantiles in the unit of the context, never decreasing along the levels.
statsforecast fits; a fit that fails raises ValueError or an ArithmeticError, which the protocol counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from statsforecast.models import MSTL, AutoARIMA, AutoETS, DynamicOptimizedTheta, Naive, SeasonalNaive

from support.errors import TooShortError
from support.forecasting.gaussian_process import gaussian_process
from support.forecasting.prophet_model import prophet
from support.forecasting.sarimax import sarimax
from support.forecasting.structural import structural

__all__ = ["BASELINE", "LOCAL_MODELS", "LocalModel", "seasonal_naive_empirical"]

BASELINE = "SNaive+emp.q"
PHASE_DIVISOR = 48  # climatology pools phases a 48th of the season to either side: half an hour of a day
# What statsforecast raises when no candidate could be fitted or a series is too short: these classes themselves, not their
# subclasses, which are bugs and pass through.
LIBRARY_FAILURES = (Exception, NotImplementedError)


class LocalModel(Protocol):
    """A local forecaster: quantiles (horizon, n_level) from the past (n_time,) of one series."""

    def __call__(
        self, context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Quantiles of the `horizon` values after the context."""


def seasonal_naive_empirical(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The last season again, plus quantiles of y_t - y_(t - season) in the context: the base of every ratio.

    Raises TooShortError unless the context is longer than a season. Source: Hyndman and Athanasopoulos (2021),
    section 5.5, with empirical instead of Gaussian errors.

    Example:
        >>> seasonal_naive_empirical(np.arange(4.0), 2, 1, np.array([0.5]), np.random.default_rng(0)).tolist()
        [[4.0], [4.0]]
    """
    _need(context, season + 1, season)
    repeated = context[-season:][np.arange(horizon) % season]
    return repeated[:, None] + np.quantile(context[season:] - context[:-season], levels)


def climatology(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Quantiles of all past values at the same phase of the season, and at phases up to a 48th of it to either side.

    Half an hour of a day, whole steps only: none by the hour, 6 of 5 minutes, 30 of a minute. Raises TooShortError unless the context holds a whole season.

    Example:
        >>> climatology(np.array([1.0, 2.0, 3.0]), 1, 1, np.array([0.5]), np.random.default_rng(0)).tolist()
        [[2.0]]
    """
    _need(context, season, season)
    phase = np.arange(len(context)) % season
    near = season // PHASE_DIVISOR
    out = np.empty((horizon, len(levels)))
    for h in range(min(horizon, season)):
        away = np.abs(phase - (len(context) + h) % season)
        out[h::season] = np.quantile(context[np.minimum(away, season - away) <= near], levels)
    return out


def _need(context: np.ndarray, n: int, season: int) -> None:
    if len(context) < n:
        raise TooShortError(f"context: {len(context)} values; at least {n} are needed for a season of {season}.")


def _gaussian(build: Callable[[int], Any]) -> LocalModel:
    """A local model from a statsforecast model, made by `build(season)`; its mean stands for the median."""

    def forecast(
        context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        central = sorted({round(100 * abs(2 * float(level) - 1), 6) for level in levels if level != 0.5})
        try:
            made = build(season).forecast(np.ascontiguousarray(context, dtype=float), h=horizon, level=central)
        except Exception as error:
            if type(error) not in LIBRARY_FAILURES:
                raise
            raise ValueError(f"statsforecast: {error}") from error
        columns = []
        for level in levels:
            share = round(100 * abs(2 * float(level) - 1), 6)
            columns.append(made["mean"] if level == 0.5 else made[f"{'lo' if level < 0.5 else 'hi'}-{share}"])
        return np.sort(np.stack(columns, axis=-1), axis=-1)

    return forecast


def _mstl(trend: Callable[[], Any]) -> Callable[[int], Any]:
    def build(season: int) -> Any:
        if season < 2:
            raise TooShortError(f"MSTL: a season of {season} step cannot be taken out. Use its trend model alone.")
        return MSTL(season_length=season, trend_forecaster=trend())

    return build


# Additive errors only, except where the letters begin with Z (Hyndman et al. 2002). ARIMA and ETS without a season: one
# of 288 steps never ends. Theta takes its season out by a plain decomposition first, if a test finds one.
LOCAL_MODELS: dict[str, LocalModel] = {
    BASELINE: seasonal_naive_empirical,
    "Naive": _gaussian(lambda season: Naive()),
    "SeasonalNaive (Gaussian)": _gaussian(lambda season: SeasonalNaive(season_length=season)),
    "Climatology": climatology,
    "AutoETS (AZN)": _gaussian(lambda season: AutoETS(season_length=1, model="AZN")),
    "AutoETS (ZZZ)": _gaussian(lambda season: AutoETS(season_length=1, model="ZZZ")),
    "DynamicOptimizedTheta": _gaussian(lambda season: DynamicOptimizedTheta(season_length=season)),
    "AutoARIMA (m=1)": _gaussian(lambda season: AutoARIMA(season_length=1)),
    "MSTL+AutoARIMA": _gaussian(_mstl(lambda: AutoARIMA(season_length=1))),
    "MSTL+AutoETS (ZZN)": _gaussian(_mstl(lambda: AutoETS(season_length=1, model="ZZN"))),
    "SARIMAX(1,1,2)+Fourier": sarimax,
    "SARIMAX(2,0,1)+Fourier": partial(sarimax, order=(2, 0, 1)),
    "Prophet": prophet,
    "Structural": structural,
    "Gaussian process": gaussian_process,
}
