"""Quantiles of a rolling forecast, widened and narrowed online by their own misses; the forecast that part V scales by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecasting.rolling_quantiles import RollingQuantiles, observed_at
from support.forecasting.short_term import roll_daily

__all__ = ["Roll", "recalibrate", "roll_calibrated", "roll_warm"]

Roll = Callable[[pd.Series, pd.Timestamp], RollingQuantiles]  # all rows of a demand from a tick on

RATE = 0.02  # move of a log width a tick, if all quantiles of its tail were missed; chosen on days before those judged
WARM_DAYS, WARM_FRAC = 7.0, 1 / 3  # on which the widths are learned before they matter: at most this part of the past
MOST_LOG_WIDTH = np.log(8.0)  # wider or narrower than eight times is no matter of calibration any more


def recalibrate(rolling: RollingQuantiles, demand: pd.Series, *, rate: float = RATE) -> RollingQuantiles:
    """The forecast with the distance of its quantiles from the median scaled online, one factor a tail and horizon.

    demand: (n_time,) what came, in the forecast's unit, at least at its timestamps. After a tick is known, the log
    width of a tail moves by rate x (share of the tail's quantiles, as they were issued for it, that were missed, minus
    the expected share). So over n ticks seen and expected shares differ by at most |log width| / (rate n), whatever
    the demand does, while the width is within 1/8 .. 8. Row i uses what is known through tick i - 1 - lag_ticks only.
    The median and the mean stay; no quantile is below 0. The first rows only learn: begin some days before those that matter.
    Raises SchemaError if demand is missing at a timestamp, or rate is not positive. Source: quantile tracking of Gibbs
    and Candes (2021) and of Angelopoulos, Candes and Tibshirani (2023), equation 4, on the log width.

    Example:
        >>> times = pd.date_range("2026-01-01", periods=5000, freq="60s", tz="UTC")
        >>> demand = pd.Series(np.random.default_rng(1).normal(100.0, 20.0, 5000), index=times)
        >>> spread = np.array([80.0, 90.0, 100.0, 110.0, 120.0])  # far too narrow: 10 % and 90 % are at 74 and 126
        >>> issued = RollingQuantiles(times, np.array([0.1, 0.25, 0.5, 0.75, 0.9]), np.tile(spread, (5000, 1, 1)),
        ...                           np.full((5000, 1), 100.0), "narrow", 0)
        >>> round(float(recalibrate(issued, demand).at(0.9)[-1000:].mean()))
        126
    """
    seen = observed_at(rolling, demand, "recalibrate")
    if not rate > 0:
        raise SchemaError(f"recalibrate: rate is {rate:g}; it must be above 0.")
    levels, horizons = rolling.levels, np.arange(rolling.quantiles.shape[1])
    upper, lower = levels > 0.5, levels < 0.5
    middle = rolling.at(0.5)[..., None]
    away = rolling.quantiles - middle
    wanted = (1 - levels[upper]).mean(), levels[lower].mean()
    log_width = np.zeros((2, len(horizons)))  # of the upper and of the lower tail
    out = np.empty(rolling.quantiles.shape, dtype=np.result_type(rolling.quantiles, np.float32))
    for row in range(len(seen)):
        newest = row - 1 - rolling.lag_ticks  # the tick that has become known
        ahead = horizons[: max(0, newest + 1)]  # those of which a row was issued for that tick
        if len(ahead):
            issued = out[newest - ahead, ahead]
            missed = (seen[newest] > issued[:, upper]).mean(axis=1), (seen[newest] < issued[:, lower]).mean(axis=1)
            for tail in range(2):
                log_width[tail, ahead] += rate * (missed[tail] - wanted[tail])
            np.clip(log_width, -MOST_LOG_WIDTH, MOST_LOG_WIDTH, out=log_width)
        width = np.exp(log_width)
        factor = np.where(upper, width[0][:, None], np.where(lower, width[1][:, None], 1.0))
        out[row] = np.maximum(middle[row] + factor * away[row], 0.0)
    return replace(rolling, quantiles=out, model=f"{rolling.model}, recalibrated")


def roll_calibrated(
    demand: pd.Series, start: pd.Timestamp, *, train_days: float, horizon_ticks: int, lag_ticks: int = 0,
    warm_days: float = WARM_DAYS,
) -> RollingQuantiles:  # fmt: skip
    """`roll_daily` from `start` on, its tails recalibrated online; the widths are learned from `warm_days` before on.

    Arguments and errors as `roll_daily`. Warm days are at most a third of the past, and none where what is left before
    them is too short to fit on: then the widths begin to learn at `start`.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=900, freq="60s", tz="UTC")
        >>> flat = pd.Series(10.0, index=minutes, name="requests")
        >>> roll_calibrated(flat, minutes[880], train_days=1, horizon_ticks=3).model
        'direct ridge, recalibrated'
    """
    roll = partial(roll_daily, train_days=train_days, horizon_ticks=horizon_ticks, lag_ticks=lag_ticks)
    rolled, warm = roll_warm(roll, demand, start, warm_days=warm_days)
    return recalibrate(rolled, demand).rows(warm)


def roll_warm(
    roll: Roll, demand: pd.Series, start: pd.Timestamp, *, warm_days: float = WARM_DAYS
) -> tuple[RollingQuantiles, int]:
    """The rows that `roll` makes from `start` on, with those of `warm_days` before in front, and how many those are.

    roll(demand, start): such as a partial `roll_daily`; its warm rows come from the past of `start` alone. Warm days are
    at most a third of the past; none where what is left before them is too short. Raises what `roll` raises.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=900, freq="60s", tz="UTC")
        >>> roll = partial(roll_daily, train_days=1, horizon_ticks=3)
        >>> roll_warm(roll, pd.Series(10.0, index=minutes, name="requests"), minutes[880], warm_days=0.05)[1]
        72
    """
    rolled = roll(demand, start)
    first = int(demand.index.searchsorted(start))
    step = (demand.index[1] - demand.index[0]) / pd.Timedelta(days=1)
    warm = int(min(warm_days / step, first * WARM_FRAC))
    try:
        before = roll(demand.iloc[:first], demand.index[first - warm]) if warm else None
    except TooShortError:
        before = None
    if before is None:
        return rolled, 0
    return replace(
        rolled, timestamps=before.timestamps.append(rolled.timestamps), mean=np.concatenate([before.mean, rolled.mean]),
        quantiles=np.concatenate([before.quantiles, rolled.quantiles]),
    ), warm  # fmt: skip
