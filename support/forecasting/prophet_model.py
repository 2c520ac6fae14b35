"""Prophet: a trend with changepoints, harmonics of hour, day, week and year, holidays; sample paths turned into quantiles.

Its chatter is silenced and its global random state is set for the call and put back.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecasting.covariates import KnownCovariates
from support.telemetry.calendars import holiday_dates
from support.writing import plural

logging.getLogger("prophet.plot").setLevel(logging.CRITICAL)  # or its import says that plotly is not there
from prophet import Prophet  # noqa: E402

__all__ = ["prophet"]

DAILY_PAIRS, WEEKLY_PAIRS = 10, 3  # of sine and cosine; the second is Prophet's own default
CHANGEPOINT_SCALE = 0.05  # prior scale of the changes of slope, in units of the largest value; Prophet's own default
N_DRAWS = 500
DAY, HOUR = pd.Timedelta(days=1), pd.Timedelta(hours=1)
YEAR_DAYS = 365.25
MODES = ("additive", "multiplicative")
WEEKLY_FROM_DAYS = 14  # of context, for a weekly season
START = pd.Timestamp("2024-01-01")  # a Monday, where the context has no dates


def prophet(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator, *,
    known: KnownCovariates | None = None, country: str = "", changepoint_scale: float = CHANGEPOINT_SCALE,
    n_draws: int = N_DRAWS, yearly_pairs: int = 0, hourly_pairs: int = 0,
    mode: Literal["additive", "multiplicative"] = "additive",
) -> np.ndarray:  # fmt: skip
    """Quantiles (horizon, n_level) of `n_draws` predictive paths; `season` is the number of steps in a day.

    The week is used from two weeks of context on. `known` gives the dates and covariates; without it the context is
    taken to begin on a Monday. country: ISO code; each public holiday is a day with one common effect. yearly_pairs,
    hourly_pairs: of sine and cosine of the year (of little use with less than a year of context) and of the hour, at
    most as many as its steps can tell apart; 0 leaves the season out. mode: whether seasons, holidays and covariates
    are added to the trend or are shares of it, "additive" or "multiplicative". Missing values (NaN) are left out.
    Raises TooShortError with fewer than two values, SchemaError for another mode or an hour of fewer than 3 steps,
    ValueError if Stan's optimiser fails.
    Source: Taylor and Letham (2018), The American Statistician 72.
    """
    if mode not in MODES or min(yearly_pairs, hourly_pairs) < 0:
        raise SchemaError(
            f"prophet: mode {mode!r} with {yearly_pairs} and {hourly_pairs} pairs; modes are {', '.join(MODES)}, and "
            "pairs at least 0."
        )
    n = len(context)
    if n < 2:
        raise TooShortError(f"context: {n} values; at least 2 are needed.")
    step = known.times[1] - known.times[0] if known is not None else DAY / max(season, 2)
    begin = known.times[0].tz_localize(None) if known is not None else START
    frame = pd.DataFrame({"ds": begin + step * np.arange(n + horizon)})
    model = Prophet(
        daily_seasonality=False, weekly_seasonality=False, yearly_seasonality=False, uncertainty_samples=n_draws,
        changepoint_prior_scale=changepoint_scale, holidays=_holidays(country, frame["ds"]) if country else None,
        seasonality_mode=mode,
    )  # fmt: skip
    if hourly_pairs:
        model.add_seasonality("hourly", period=HOUR / DAY, fourier_order=min(hourly_pairs, _most_pairs(HOUR / step)))
    if season > 1:
        model.add_seasonality("daily", period=1, fourier_order=min(DAILY_PAIRS, max(1, (season - 1) // 2)))
    if n * step >= WEEKLY_FROM_DAYS * DAY and (season > 1 or (known is not None and step <= DAY)):
        model.add_seasonality("weekly", period=7, fourier_order=WEEKLY_PAIRS)
    if yearly_pairs:
        model.add_seasonality("yearly", period=YEAR_DAYS, fourier_order=yearly_pairs)
    if known is not None:
        seen, ahead = known.matrices(horizon, season=season)
        for column in range(seen.shape[1]):
            frame[f"x{column}"] = np.concatenate([seen[:, column], ahead[:, column]])
            model.add_regressor(f"x{column}")
    with _quiet(), _seeded(rng):
        try:
            model.fit(frame[:n].assign(y=context), seed=int(rng.integers(2**31)))
        except RuntimeError as error:
            raise ValueError(f"prophet: {' '.join(str(error).split())}") from error
        paths = model.predictive_samples(frame[n:].reset_index(drop=True))["yhat"]
    return np.quantile(paths, levels, axis=1).T


def _most_pairs(steps: float) -> int:
    """Pairs that an hour of so many steps can tell apart."""
    pairs = int((np.ceil(steps) - 1) // 2)
    if pairs < 1:
        raise SchemaError(
            f"prophet: an hour has {plural(steps, 'step')}; its season needs at least 3. Set hourly_pairs to 0."
        )
    return pairs


def _holidays(country: str, dates: pd.Series) -> pd.DataFrame:
    """Prophet's table of holidays, all under one name, so that one effect is learnt from all of them."""
    days = holiday_dates(country, int(dates.dt.year.min()), int(dates.dt.year.max())).astype("datetime64[D]")
    return pd.DataFrame({"holiday": "public holiday", "ds": days.astype("datetime64[ns]")})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log lines from Prophet and cmdstanpy (what fails raises), nor warnings about pandas, within the block."""
    loggers = [logging.getLogger(name) for name in ("prophet", "cmdstanpy")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True  # not the level: cmdstanpy sets its own at first use
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@contextlib.contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """NumPy's global random state, which is all that Prophet knows, drawn from `rng` and put back after the block."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
