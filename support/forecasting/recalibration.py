"""Quantiles of a rolling forecast, widened and narrowed online by their own misses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecasting.rolling_quantiles import RollingQuantiles

__all__ = ["recalibrate"]

RATE = 0.01  # move of a log width a tick, if all quantiles of its tail were missed; chosen on days before those judged
MOST_LOG_WIDTH = np.log(8.0)  # wider or narrower than eight times is no matter of calibration any more


def recalibrate(rolling: RollingQuantiles, demand: pd.Series, *, rate: float = RATE) -> RollingQuantiles:
    """The forecast with the distance of its quantiles from the median scaled online, one factor a tail and horizon.

    demand: (n_time,) what came, in the forecast's unit, at least at its timestamps. After a tick is known, the log
    width of a tail moves by rate x (share of the tail's quantiles, as they were issued for it, that were missed, minus
    the expected share). So over n ticks seen and expected shares differ by at most |log width| / (rate n), whatever
    the demand does, while the width is within 1/8 .. 8. Row i uses what is known through tick i - 1 - lag_ticks only.
    The median and the mean stay. The first rows only learn: begin some days before those that matter.
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
    seen = demand.reindex(rolling.timestamps).to_numpy(float)
    if np.isnan(seen).any():
        raise SchemaError(
            f"recalibrate: {int(np.isnan(seen).sum())} of the {len(seen)} timestamps of the forecast have no demand; "
            "forecast on the index of the demand, without gaps."
        )
    if not rate > 0:
        raise SchemaError(f"recalibrate: rate is {rate:g}; it must be above 0.")
    levels, horizons = rolling.levels, np.arange(rolling.quantiles.shape[1])
    upper, lower = levels > 0.5, levels < 0.5
    middle = rolling.at(0.5)[..., None]
    away = rolling.quantiles - middle
    wanted = (1 - levels[upper]).mean(), levels[lower].mean()
    log_width = np.zeros((2, len(horizons)))  # of the upper and of the lower tail
    out = np.empty_like(rolling.quantiles)
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
