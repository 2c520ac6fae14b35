"""What a thousand requests cost: on average, at the margin, and whether it is getting dearer, with intervals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy import stats

from support.errors import SchemaError, TooShortError
from support.telemetry.schema import Telemetry
from support.writing import plural

__all__ = ["daily_cost_and_requests", "unit_cost", "unit_cost_table"]

THOUSAND = 1000.0
MIN_SHARE = 0.01  # of the median day: with fewer requests a day's unit cost says nothing
BLOCK_DAYS = 7  # one week, so that the season of the week stays together
MIN_BLOCKS = 4  # below this a bootstrap over blocks has too few of them to be an interval
TREND_DAYS = 30.0


def daily_cost_and_requests(telemetry: Telemetry) -> pd.DataFrame:
    """Cost (USD) and requests of the resources that serve, by whole day (UTC); columns cost_usd and requests.

    An interval of a resource in which either is missing counts in neither. Raises SchemaError for telemetry without
    cost or requests.

    Example:
        >>> from support.telemetry import load
        >>> list(daily_cost_and_requests(load("synthetic:cloud", seed=1, days=3, n_resources=9)).columns)
        ['cost_usd', 'requests']
    """
    if lacking := [m for m in ("cost_usd", "requests") if m not in telemetry.observations]:
        raise SchemaError(f"{telemetry.source}: no {lacking[0]}; there are {telemetry.metrics}.")
    frame = telemetry.observations[["cost_usd", "requests"]]
    serves = frame["requests"].groupby(level="resource_id").transform("count") > 0
    known = frame[serves].dropna()  # a cost without its requests, or requests without their cost, would tilt the ratio
    by_day = known.groupby(known.index.get_level_values("timestamp").floor("D"))
    steps = frame.index.get_level_values("timestamp")[serves].unique().floor("D").value_counts()
    whole = steps[steps == round(86_400 / telemetry.step_seconds)].index
    return by_day.sum().loc[lambda f: f.index.isin(whole)]


def _checked(cost: pd.Series, requests: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays; SchemaError if they do not belong together or hold a negative or missing number."""
    if len(cost) != len(requests) or not cost.index.equals(requests.index):
        raise SchemaError("cost and requests must have the same days. Align them, or drop the days that one lacks.")
    money, served = cost.to_numpy(dtype=float), requests.to_numpy(dtype=float)
    if not (np.isfinite(money) & np.isfinite(served) & (money >= 0) & (served >= 0)).all():
        raise SchemaError("cost and requests must be finite numbers of at least 0 on every day.")
    return money, served


def unit_cost(cost: pd.Series, requests: pd.Series, *, min_share: float = MIN_SHARE) -> pd.Series:
    """Cost per 1000 requests of each day, in the currency of `cost`; NaN where there were next to none.

    A day counts if it has at least `min_share` of the requests of the median day (and at least one).
    Raises SchemaError for series that do not match, or if no day counts.

    Example:
        >>> days = pd.date_range("2026-01-01", periods=3, freq="D")
        >>> unit_cost(pd.Series([5.0, 5.0, 5.0], days), pd.Series([1000.0, 2000.0, 1.0], days)).tolist()
        [5.0, 2.5, nan]
    """
    money, served = _checked(cost, requests)
    enough = served >= max(min_share * float(np.median(served)), 1.0)
    if not enough.any():
        raise SchemaError("no day has requests, so there is no cost per request. Report the cost itself.")
    return pd.Series(np.where(enough, THOUSAND * money / np.where(enough, served, 1.0), np.nan), cost.index)


def unit_cost_table(
    cost: pd.Series,
    requests: pd.Series,
    *,
    rng: np.random.Generator,
    level: float = 0.9,
    min_share: float = MIN_SHARE,
    n_resamples: int = 999,
) -> pd.DataFrame:
    """Average and marginal cost per 1000 requests, fixed cost a day, and the trend; columns estimate, low, high.

    average: all cost over all requests. marginal and fixed: slope and intercept of daily cost on daily requests (least
    squares); what the next 1000 cost, and what none would. trend: change of the daily unit cost per 30 days.
    low, high: percentile interval of a bootstrap (scipy) over whole weeks, the oldest days beyond them left out; it
    allows for dependence within a week, not between weeks. marginal and fixed are NaN if requests never vary.
    Raises TooShortError below four weeks and SchemaError for series that do not match.

    Example:
        >>> days = pd.date_range("2026-01-01", periods=28, freq="D")
        >>> served = pd.Series(np.arange(1.0, 29.0) * 1000, days)
        >>> table = unit_cost_table(10 + served / 500, served, rng=np.random.default_rng(1), n_resamples=99)
        >>> table.loc[["marginal", "fixed"], "estimate"].round(6).tolist()
        [2.0, 10.0]
    """
    unit = unit_cost(cost, requests, min_share=min_share).to_numpy()
    n_blocks = len(unit) // BLOCK_DAYS
    if n_blocks < MIN_BLOCKS:
        raise TooShortError(
            f"{plural(len(unit), 'day')} of cost; an interval over weeks needs {MIN_BLOCKS * BLOCK_DAYS}."
        )
    days = np.arange(len(unit), dtype=float)
    rows = np.column_stack([days, *_checked(cost, requests), unit])[-n_blocks * BLOCK_DAYS :]
    blocks = rows.reshape(n_blocks, BLOCK_DAYS, rows.shape[1])

    def statistics(chosen: np.ndarray) -> np.ndarray:
        return _unit_statistics(blocks[chosen.astype(int)].reshape(-1, rows.shape[1]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # a NaN statistic has a NaN interval
        drawn = stats.bootstrap(
            (np.arange(n_blocks),),
            statistics,
            vectorized=False,
            method="percentile",
            confidence_level=level,
            n_resamples=n_resamples,
            rng=rng,
        )
    low, high = drawn.confidence_interval
    return pd.DataFrame(
        {"estimate": _unit_statistics(rows), "low": low, "high": high},
        index=["average", "marginal", "fixed", "trend"],
    )


def _unit_statistics(rows: np.ndarray) -> np.ndarray:
    """Average, marginal, fixed and trend of rows of (day, cost, requests, unit cost)."""
    day, money, served, unit = rows.T
    marginal, fixed = _line(served, money)
    there = np.isfinite(unit)
    trend = _line(day[there], unit[there])[0]
    average = THOUSAND * money.sum() / served.sum() if served.sum() > 0 else np.nan
    return np.array([average, THOUSAND * marginal, fixed, TREND_DAYS * trend])


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by least squares; NaN where x does not vary."""
    spread = x - x.mean() if x.size else x
    if x.size < 2 or not np.abs(spread).max() > 1e-9 * max(np.abs(x).max(), 1e-300):
        return np.nan, np.nan
    slope = float(spread @ (y - y.mean()) / (spread @ spread))
    return slope, float(y.mean() - slope * x.mean())
