"""From a local model to a Forecast: dates, unit and joint paths around its quantiles. The one bridge between the two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecast import LEVELS, Forecast
from support.forecasting.covariates import Calendar, KnownCovariates
from support.forecasting.local_models import LocalModel

__all__ = ["as_forecaster", "on_logs"]

MAX_PATHS = 1000
CEILING_LOG = 3.0  # above the highest value seen, twenty times it: beyond that only overflow is prevented


def on_logs(model: LocalModel) -> LocalModel:
    """The same model on log(1 + value), its quantiles carried back, which a monotone map allows; for values above -1.

    Raises SchemaError for values at or below -1, and what the model raises.

    Example:
        >>> from support.forecasting.local_models import BASELINE, LOCAL_MODELS
        >>> made = on_logs(LOCAL_MODELS[BASELINE])(np.array([1.0, 3.0, 7.0]), 1, 1, np.array([0.5]), np.random.default_rng(0))
        >>> made.round(6).tolist()
        [[15.0]]
    """

    def forecast(
        context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator, **options: object
    ) -> np.ndarray:
        if context.min() <= -1:
            raise SchemaError(f"context: smallest value {context.min():g}; a logarithm needs values above -1.")
        top = np.log1p(context.max()) + CEILING_LOG
        return np.expm1(np.minimum(model(np.log1p(context), horizon, season, levels, rng, **options), top))

    return forecast


def as_forecaster(
    model: LocalModel, name: str, *, calendar: Calendar | None = None, floor: float | None = 0.0
) -> Callable[..., Forecast]:
    """A forecaster of dated series from a local model: (past, *, horizon, season, rng) -> Forecast named `name`.

    Paths take the rank order over the horizon from past seasonal errors (`Forecast.from_quantiles`). calendar: known
    covariates, for the models that take `known`. floor: quantiles below it are raised to it, demand being no less than
    nothing; None leaves them. Raises what the model raises, and TooShortError under two seasons and a horizon.

    Example:
        >>> from support.forecasting.local_models import BASELINE, LOCAL_MODELS
        >>> past = pd.Series(np.arange(8.0), pd.date_range("2026-01-01", periods=8, freq="1h", tz="UTC"), name="jobs")
        >>> made = as_forecaster(LOCAL_MODELS[BASELINE], "naive")(past, horizon=2, season=2, rng=np.random.default_rng(0))
        >>> made.quantile(0.5).tolist(), made.unit
        ([[8.0, 9.0]], 'jobs per 1 h')
    """

    def forecast(past: pd.Series, *, horizon: int, season: int, rng: np.random.Generator) -> Forecast:
        values = past.to_numpy(float)
        if len(values) < 2 * season + horizon:
            raise TooShortError(
                f"history: {len(values)} steps; at least {2 * season + horizon} are needed for a season of {season} and "
                f"a horizon of {horizon}."
            )
        # only their rank order counts, so they stay in the unit of demand, which may be below nothing
        errors = np.lib.stride_tricks.sliding_window_view(values[season:] - values[:-season], horizon)
        given = {} if calendar is None else {"known": KnownCovariates(pd.DatetimeIndex(past.index), calendar)}
        quantiles = model(values, horizon, season, LEVELS, rng, **given)
        if floor is not None:
            quantiles = np.maximum(quantiles, floor)
        step = (past.index[1] - past.index[0]).total_seconds()
        return Forecast.from_quantiles(
            quantiles[None], LEVELS, errors[rng.permutation(len(errors))[:MAX_PATHS]], issued_at=past.index[-1],
            step_seconds=step, unit=f"{past.name} per {step / 3600:g} h", model=name, rng=rng,
        )  # fmt: skip

    return forecast
