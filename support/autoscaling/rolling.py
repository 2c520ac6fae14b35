"""Forecasters of part III at every tick of a simulation: each sees the past only and is fitted anew as days go by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from support.errors import SchemaError, TooShortError
from support.forecasting import RollingQuantiles, pinball, roll_daily
from support.forecasting.aggregation import aggregate
from support.forecasting.boosting import fit_boosting
from support.forecasting.local_models import LocalModel
from support.forecasting.protocol import GlobalModel
from support.forecasting.recalibration import Roll, recalibrate, roll_warm
from support.forecasting.rolling_quantiles import TICK_LEVELS
from support.forecasting.short_term import MOST_GROWTH

__all__ = [
    "forecast_scores", "part_of", "roll_aggregated", "roll_boosting", "roll_global", "roll_local",
    "roll_persistence", "roll_seasonal_naive",
]  # fmt: skip

DAY_SECONDS = 86_400
REFIT_DAYS = 7.0  # trees are fitted once a week: a fit takes seconds
CUTOFFS = 3000  # drawn from the past for one fit of the trees
TREES = 60  # of each fitted level
CONTEXT_DAYS = 2  # that the features of the trees look back on
HALF_LIFE_FRAC = 1 / 8  # of the past: after so much of it a loss of an expert counts half, at most after a day
LEAST_RATIOS = 4  # horizons of past from which persistence takes its ratios, at least


def roll_persistence(
    demand: pd.Series, start: pd.Timestamp, *, train_days: float, horizon_ticks: int, lag_ticks: int = 0
) -> RollingQuantiles:
    """The newest value known, at every tick from `start` on, times the ratios by which demand moved in the past.

    Arguments and errors as `roll_daily`; the ratios, (1 + later) / (1 + before), are those of the `train_days` before
    each day, one law a horizon.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=2900, freq="60s", tz="UTC")
        >>> flat = pd.Series(10.0, index=minutes, name="requests")
        >>> roll_persistence(flat, minutes[2880], train_days=2, horizon_ticks=3).mean[0].round(6).tolist()
        [10.0, 10.0, 10.0]
    """
    return _repeated(demand, start, 1, "persistence", train_days, horizon_ticks, lag_ticks)


def roll_seasonal_naive(
    demand: pd.Series, start: pd.Timestamp, *, train_days: float, horizon_ticks: int, lag_ticks: int = 0
) -> RollingQuantiles:
    """The same minute of the day before, times the ratios by which days differed in the past; else `roll_persistence`."""
    return _repeated(demand, start, _day_ticks(demand), "seasonal naive", train_days, horizon_ticks, lag_ticks)


def roll_local(
    demand: pd.Series, start: pd.Timestamp, *, model: LocalModel, name: str, train_days: float, horizon_ticks: int,
    rng: np.random.Generator, lag_ticks: int = 0, refit_days: float = 1.0,
) -> RollingQuantiles:  # fmt: skip
    """A local model of part III as a plan made once a day: at midnight it forecasts the whole day, and learns nothing till the next.

    `model` gets the `train_days` before, with a season of a day. refit_days: between two plans; 0 asks it anew at every
    tick. Raises what the model raises, SchemaError if the day is no whole number of ticks.
    """
    season, values, pieces = _day_ticks(demand), demand.to_numpy(float), []
    for low, known, first, last in _days(demand, start, train_days, lag_ticks, refit_days):
        ahead = last - first + horizon_ticks - 1
        made = model(values[low:known], first - known + ahead, season, TICK_LEVELS, rng)[first - known :]
        pieces.append(made[np.arange(last - first)[:, None] + np.arange(horizon_ticks)])
    return _rolling(demand, np.concatenate(pieces), name, lag_ticks)


def roll_boosting(
    demand: pd.Series, start: pd.Timestamp, *, train_days: float, horizon_ticks: int, rng: np.random.Generator,
    lag_ticks: int = 0, refit_days: float = REFIT_DAYS, max_iter: int = TREES,
) -> RollingQuantiles:  # fmt: skip
    """Gradient boosting of the quantile loss (`fit_boosting`) at every tick, fitted anew each `refit_days` on the past.

    Arguments as `roll_daily`; max_iter: trees of each fitted level. Raises TooShortError if the past does not hold two days and the horizon.
    """
    season, values, pieces = _day_ticks(demand), demand.to_numpy(float), []
    context, reach = CONTEXT_DAYS * season, horizon_ticks + lag_ticks
    with threadpool_limits(limits=1, user_api="openmp"):  # many small steps: more threads only wait for each other
        for low, known, first, last in _days(demand, start, train_days, lag_ticks, refit_days):
            model = fit_boosting(
                {"demand": values[low:known]}, context=context, horizon=reach, season=season, levels=TICK_LEVELS,
                rng=rng, max_iter=max_iter, max_cutoffs=CUTOFFS,
            )  # fmt: skip
            newest = np.arange(first, last) - 1 - lag_ticks  # the last value known at each tick
            begin = max(0, int(newest[0]) - context + 1)
            made = model.predict_at(values[begin : int(newest[-1]) + 1], newest - begin)
            pieces.append(made[:, lag_ticks:])
    return _rolling(demand, np.concatenate(pieces), "gradient boosting", lag_ticks)


def roll_global(
    demand: pd.Series, start: pd.Timestamp, *, model: GlobalModel, name: str, train_days: float, horizon_ticks: int,
    context_ticks: int, rng: np.random.Generator, lag_ticks: int = 0, refit_days: float = REFIT_DAYS,
) -> RollingQuantiles:  # fmt: skip
    """A global model of part III, such as a net, at every tick from its newest `context_ticks` values, fitted anew each `refit_days`.

    `model` is fitted on the `train_days` before, with a season of a day, and may forecast further than it is asked to.
    Raises what the model raises, SchemaError if the day is no whole number of ticks.
    """
    season, values, pieces = _day_ticks(demand), demand.to_numpy(float), []
    reach = horizon_ticks + lag_ticks
    for low, known, first, last in _days(demand, start, train_days, lag_ticks, refit_days):
        fitted = model(
            {"demand": values[low:known]}, context=context_ticks, horizon=reach, season=season, levels=TICK_LEVELS,
            rng=rng,
        )  # fmt: skip
        for end in range(first - lag_ticks, last - lag_ticks):  # under the name it was fitted by: its long run is known
            context = values[max(0, end - context_ticks) : end]
            pieces.append(fitted.predict({"demand": context}, rng=rng)["demand"][lag_ticks:reach])
    return _rolling(demand, np.stack(pieces), name, lag_ticks)


def roll_aggregated(
    demand: pd.Series, start: pd.Timestamp, *, train_days: float, horizon_ticks: int, rng: np.random.Generator,
    lag_ticks: int = 0, max_iter: int = TREES, others: Sequence[Roll] = (),
) -> RollingQuantiles:  # fmt: skip
    """Ridge, persistence and boosted trees at every tick, heard by what each lost lately, their tails recalibrated online.

    `aggregate` of `roll_daily`, of `roll_persistence` with the ratios of the newest quarter of `train_days`, so that one
    expert has a short memory, and of `roll_boosting`; then `recalibrate`. Both learn from a week before `start` on, as
    in `roll_warm`. A loss counts half after a day, or an eighth of a shorter past. An expert for whom the past is too
    short, or to whom a day is no whole number of ticks, is left out: `model` names those that are in.
    Arguments as `roll_daily`; max_iter: trees of each level; others: more experts, each made by roll(demand, start), such
    as a partial `roll_local`. Raises TooShortError if no expert is left.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=900, freq="60s", tz="UTC")
        >>> flat = pd.Series(10.0, index=minutes, name="requests")
        >>> roll_aggregated(flat, minutes[880], train_days=1, horizon_ticks=3, rng=np.random.default_rng(1)).model
        'aggregate of direct ridge, persistence, recalibrated'
    """
    step = (demand.index[1] - demand.index[0]) / pd.Timedelta(days=1)
    span = {"horizon_ticks": horizon_ticks, "lag_ticks": lag_ticks}
    memory = max(train_days / 4, LEAST_RATIOS * (horizon_ticks + lag_ticks) * step)
    experts: list[Roll] = [
        partial(roll_daily, train_days=train_days, **span),
        partial(roll_persistence, train_days=memory, **span),
        *others,
    ]
    if (1 / step).is_integer():
        experts.append(partial(roll_boosting, train_days=train_days, rng=rng, max_iter=max_iter, **span))
    made, too_short = [], None
    for expert in experts:
        try:
            made.append(roll_warm(expert, demand, start))
        except TooShortError as error:
            too_short = error
    if not made:
        raise TooShortError(f"aggregate: no expert has enough past; the last said: {too_short}")
    warm = min(n for _, n in made)
    half_life = max(1.0, min(1.0 / step, HALF_LIFE_FRAC * demand.index.searchsorted(start)))
    rolled = aggregate([rolling.rows(n - warm) for rolling, n in made], demand, half_life_ticks=half_life)
    return recalibrate(rolled, demand).rows(warm)


def forecast_scores(rolling: RollingQuantiles, demand: pd.Series, *, level: float) -> dict[str, float]:
    """Scores of `rolling` at its longest horizon against `demand` (n_time,), the ticks that it forecast.

    crps: twice the quantile loss over all levels, held flat beyond the outermost (Gneiting, 2011); pinball: twice the
    quantile loss at `level`; both in the unit of the demand, means over ticks. below_percent: ticks below the quantile at
    `level`; cover_percent: ticks in the central 90 % interval. Raises SchemaError if the ticks differ.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=2, freq="60s", tz="UTC")
        >>> sure = RollingQuantiles(minutes, np.array([0.05, 0.5, 0.95]), np.full((2, 1, 3), 4.0), np.full((2, 1), 4.0), "sure", 0)
        >>> forecast_scores(sure, pd.Series([4.0, 4.0], index=minutes), level=0.9)["crps"]
        0.0
    """
    if not rolling.timestamps.equals(pd.DatetimeIndex(demand.index)):
        raise SchemaError(f"{rolling.model}: the forecast's rows are not the demand's ticks.")
    ahead = rolling.mean.shape[1] - 1
    rows = len(demand) - ahead
    observed = demand.to_numpy(float)[ahead:]
    loss = 2 * pinball(observed, rolling.quantiles[:rows, -1], rolling.levels)
    chosen, low, high = (rolling.at(at)[:rows, -1] for at in (level, 0.05, 0.95))
    return {
        "crps": float((loss @ _shares(rolling.levels)).mean()),
        "pinball": float(2 * pinball(observed, chosen[:, None], np.array([level])).mean()),
        "below_percent": 100 * float((observed <= chosen).mean()),
        "cover_percent": 100 * float(((observed >= low) & (observed <= high)).mean()),
    }


def part_of(rolling: RollingQuantiles, start: pd.Timestamp, end: pd.Timestamp | None = None) -> RollingQuantiles:
    """The rows of `rolling` from `start` on, before `end`.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
        >>> all_rows = RollingQuantiles(minutes, np.array([0.1, 0.9]), np.zeros((3, 1, 2)), np.zeros((3, 1)), "none", 0)
        >>> len(part_of(all_rows, minutes[1], minutes[2]).timestamps)
        1
    """
    first = int(rolling.timestamps.searchsorted(start))
    return rolling.rows(first, None if end is None else int(rolling.timestamps.searchsorted(end)))


def _repeated(
    demand: pd.Series, start: pd.Timestamp, season: int, name: str, train_days: float, horizon_ticks: int, lag_ticks: int
) -> RollingQuantiles:  # fmt: skip
    """The newest known value of the same phase of `season` ticks, with empirical quantiles of past log ratios.

    At most MOST_GROWTH times the largest demand known, as the ridge's: a ratio seen at night is not believed at noon.
    """
    logs, ahead = np.log1p(demand.to_numpy(float)), np.arange(horizon_ticks)
    largest = np.maximum.accumulate(demand.to_numpy(float))
    back = season * -(-(ahead + 1 + lag_ticks) // season)  # from the forecast tick to the value that is repeated
    quantiles, means = [], []
    for low, known, first, last in _days(demand, start, train_days, lag_ticks, 1.0):
        if known - low <= back[-1] + 1:
            raise TooShortError(f"{name}: {known - low} ticks of past; more than {back[-1] + 1} are needed.")
        errors = [logs[low + k : known] - logs[low : known - k] for k in back]
        law = np.stack([np.quantile(e, TICK_LEVELS) for e in errors])  # (horizon, level)
        base = logs[np.arange(first, last)[:, None] + ahead - back]
        most = MOST_GROWTH * largest[np.arange(first, last) - 1 - lag_ticks, None]
        quantiles.append(np.clip(np.expm1(base[..., None] + law), 0.0, most[..., None]))
        smearing = np.array([np.exp(e).mean() for e in errors])  # Duan (1983)
        means.append(np.clip(np.exp(base) * smearing - 1.0, 0.0, most))
    at = demand.index[demand.index >= start]
    return RollingQuantiles(at, TICK_LEVELS, np.concatenate(quantiles), np.concatenate(means), name, lag_ticks)


def _rolling(demand: pd.Series, quantiles: np.ndarray, name: str, lag_ticks: int) -> RollingQuantiles:
    """Rolling quantiles from raw ones: not negative, sorted, and their mean by the quantile function."""
    quantiles = np.sort(np.maximum(quantiles, 0.0), axis=-1)
    at = demand.index[-len(quantiles) :]
    return RollingQuantiles(at, TICK_LEVELS, quantiles, quantiles @ _shares(TICK_LEVELS), name, lag_ticks)


def _shares(levels: np.ndarray) -> np.ndarray:
    """Weight of each level in an integral over (0, 1): half-way to its neighbours, flat beyond the outermost."""
    borders = np.r_[0.0, (levels[1:] + levels[:-1]) / 2, 1.0]
    return np.diff(borders)


def _day_ticks(demand: pd.Series) -> int:
    step = (demand.index[1] - demand.index[0]).total_seconds()
    if DAY_SECONDS % step:
        raise SchemaError(f"demand: a day is no whole number of ticks of {step:g} s, so there is no daily season.")
    return int(DAY_SECONDS / step)


def _days(
    demand: pd.Series, start: pd.Timestamp, train_days: float, lag_ticks: int, every_days: float
) -> Iterator[tuple[int, int, int, int]]:
    """(first past tick, end of what is known, first tick, end) of each stretch of `every_days` from `start` on."""
    step = (demand.index[1] - demand.index[0]).total_seconds()
    first, stretch = int(demand.index.searchsorted(start)), max(1, round(every_days * DAY_SECONDS / step))
    n_past = round(train_days * DAY_SECONDS / step)
    for at in range(first, len(demand), stretch):
        known = at - lag_ticks  # the newest ticks have not arrived when the stretch begins
        if known < 2:
            raise TooShortError(f"demand: {max(known, 0)} ticks before {start}; a forecast needs a past.")
        yield max(0, known - n_past), known, at, min(at + stretch, len(demand))
