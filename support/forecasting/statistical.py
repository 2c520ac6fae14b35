"""Statistical forecasters of a day ahead: seasonal naive with empirical errors, and two of statsforecast's models.

Each takes the past as a series on a regular UTC index, shape (n_time,), and returns a Forecast with joint paths.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsforecast.models import MSTL, AutoETS

from support.errors import SchemaError, TooShortError
from support.forecast import LEVELS, Forecast

__all__ = ["auto_ets", "mstl", "seasonal_errors", "seasonal_naive"]


def seasonal_errors(past: pd.Series, horizon: int, season: int) -> np.ndarray:
    """Past error vectors of the seasonal naive forecast, (n_origin, horizon), log(1 + demand) scale, one an origin.

    Raises TooShortError if the past holds fewer than two seasons and a horizon.
    """
    need = 2 * season + horizon
    if len(past) < need:
        raise TooShortError(
            f"history: {len(past)} steps; at least {need} are needed for a season of {season} and a horizon of {horizon}."
        )
    logs = np.log1p(past.to_numpy(float))
    change = logs[season:] - logs[:-season]
    return np.lib.stride_tricks.sliding_window_view(change, horizon)


def seasonal_naive(past: pd.Series, *, horizon: int, season: int, rng: np.random.Generator) -> Forecast:
    """The value one season ago, with the errors this rule made in the past (whole vectors, so paths are joint).

    `season`, `horizon` in steps. Raises SchemaError for a horizon beyond the season, TooShortError as `seasonal_errors`.
    Source: Hyndman and Athanasopoulos (2021), section 5.2.
    """
    if horizon > season:
        raise SchemaError(f"seasonal naive: a horizon of {horizon} steps is beyond the season of {season}.")
    errors = seasonal_errors(past, horizon, season)
    centre = np.log1p(past.to_numpy(float))[-season : len(past) - season + horizon]
    drawn = errors[rng.permutation(len(errors))[:1000]]
    paths = np.maximum(np.expm1(centre + drawn), 0.0)[None]
    return Forecast.from_paths(paths, model="seasonal naive", **_issue(past))


def auto_ets(past: pd.Series, *, horizon: int, season: int, rng: np.random.Generator) -> Forecast:
    """Exponential smoothing chosen by AICc, additive errors only (multiplicative ones explode), on log(1 + demand).

    `season` is cut to a day of at most 24 steps, which is what the model can hold. Source: Hyndman et al. (2002).
    """
    return _statsforecast(past, AutoETS(season_length=min(season, 24), model="AZA"), "AutoETS", horizon, season, rng)


def mstl(past: pd.Series, *, horizon: int, season: int, rng: np.random.Generator) -> Forecast:
    """Decomposition with a daily and a weekly season, trend by additive ETS, on log(1 + demand).

    The weekly season is used if the past holds two weeks. Raises SchemaError for a season of one step. Source: Bandara, Hyndman and Bergmeir (2021).
    """
    if season < 2:
        raise SchemaError(f"mstl: a season of {season} step cannot be taken out; give at least 2.")
    seasons = [s for s in (season, 7 * season) if len(past) >= 2 * s]
    model = MSTL(season_length=seasons, trend_forecaster=AutoETS(model="AZN"))
    return _statsforecast(past, model, "MSTL", horizon, season, rng)


def _statsforecast(
    past: pd.Series, model: AutoETS | MSTL, name: str, horizon: int, season: int, rng: np.random.Generator
) -> Forecast:
    """Fit on logs, read the Gaussian intervals, return to demand; dependence over the horizon from past error vectors."""
    templates = seasonal_errors(past, horizon, season)
    central: list[float] = [round(100 * (2 * level - 1), 6) for level in LEVELS if level > 0.5]
    fitted = model.forecast(np.log1p(past.to_numpy(float)), h=horizon, level=central)  # type: ignore[arg-type]
    columns = [fitted[f"lo-{c}"] for c in reversed(central)] + [fitted["mean"]] + [fitted[f"hi-{c}"] for c in central]
    top = np.log1p(past.max()) + 3.0  # twenty times the highest demand ever seen: beyond it only overflow is prevented
    quantiles = np.expm1(np.clip(np.sort(np.stack(columns, axis=-1), axis=-1), 0.0, top))[None]
    rows = rng.permutation(len(templates))[:1000]
    return Forecast.from_quantiles(quantiles, LEVELS, templates[rows], model=name, rng=rng, **_issue(past))


def _issue(past: pd.Series) -> dict:
    step = (past.index[1] - past.index[0]).total_seconds()
    return {"issued_at": past.index[-1], "step_seconds": step, "unit": f"{past.name} per {step / 3600:g} h"}
