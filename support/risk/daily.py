"""Daily peaks weeks ahead, as joint paths: what was usual, times the errors this rule made over past stretches.

Whole past stretches are drawn, so days hang together as they did, and all series are drawn from the same stretch, so
that they rise together where they did. Historical simulation after Barone-Adesi, Giannopoulos and Vosper (1999), without their rescaling by volatility.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
from statsmodels.robust.robust_linear_model import RLM

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast
from support.risk.vulnerability import event_of
from support.writing import plural

__all__ = ["Days", "day_paths", "days_needed", "next_days", "peak_errors", "peak_paths", "split_days"]

DAY_SECONDS = 86_400
WEEK = 7
BASE_WEEKS = 8  # whose median by weekday is the usual peak; fewer where the past is short. Chosen on 2018: chapter 10
DAYS_PER_BASE_WEEK = 21  # of past
YEAR_DAYS = 365.25
YEARLY_PAIRS, LEAST_YEARS = 2, 2.0  # of sine and cosine; with less past a season is not told from a trend
LEAST_EVENTS = 8  # days of a kind, before their effect is estimated
LEAST_DAYS = 3 * WEEK  # of past, for any horizon
LEAST_STRETCHES = 7  # past stretches to draw from
LEAST_FITTED = 60  # stretches, before what the last days still say is fitted
OUTLIER_MADS = 4.4  # three deviations of a normal; beyond it a value counts as that far when fitting
PROFILE_WEEKS = 8  # newest days whose course is drawn


@dataclass(frozen=True)
class Days:
    """Demand by day. peaks (n_day, n_series), index UTC midnights, in the unit of demand; profiles (n_day, n_step,
    n_series): each step as a share of its day's peak; unit: of the demand."""

    peaks: pd.DataFrame
    profiles: np.ndarray
    unit: str

    @property
    def step_seconds(self) -> float:
        """Distance of two steps within a day."""
        return DAY_SECONDS / self.profiles.shape[1]

    def only(self, names: pd.Index) -> Days:
        """The series `names`, in that order."""
        return Days(self.peaks[names], self.profiles[:, :, self.peaks.columns.get_indexer(names)], self.unit)

    def until(self, last: pd.Timestamp) -> Days:
        """The days up to and including `last`."""
        n = int(self.peaks.index.searchsorted(last, side="right"))
        return Days(self.peaks.iloc[:n], self.profiles[:n], self.unit)


def split_days(demand: pd.DataFrame, *, unit: str) -> Days:
    """Whole UTC days of `demand` (n_time, n_series), a regular UTC index; days that are not whole are left out.

    Raises SchemaError for values below zero or missing, a step that does not divide a day, or a series that never
    changes, and TooShortError without a whole day.

    Example:
        >>> hours = pd.date_range("2026-01-01", periods=48, freq="1h", tz="UTC")
        >>> split_days(pd.DataFrame({"web": np.arange(48.0)}, index=hours), unit="requests").peaks["web"].tolist()
        [23.0, 47.0]
    """
    step = (demand.index[1] - demand.index[0]).total_seconds() if len(demand) > 1 else 0.0
    if not step or DAY_SECONDS % step:
        raise SchemaError(f"demand: a step of {step:g} s does not divide a day. Aggregate to hours or days first.")
    n_step = int(DAY_SECONDS / step)
    if not (demand.to_numpy(float) >= 0).all():
        raise SchemaError("demand: values are missing or below zero. Fill or mend them first.")
    for name in demand.columns:
        if demand[name].nunique() < 2:
            raise SchemaError(
                f"{name}: constant at {demand[name].iloc[0]:g}, so there is nothing to forecast. Check the column."
            )
    since = demand.index[0].value / 1e9 % DAY_SECONDS  # midnight
    first = 0 if since < step else int(np.ceil((DAY_SECONDS - since) / step))
    n_day = (len(demand) - first) // n_step
    if n_day < 1:
        raise TooShortError(f"demand: {plural(len(demand), 'step')} of {step:g} s hold no whole day.")
    values = demand.to_numpy(float)[first : first + n_day * n_step].reshape(n_day, n_step, -1)
    peaks = values.max(axis=1)
    shares = np.divide(values, peaks[:, None], out=np.zeros_like(values), where=peaks[:, None] > 0)
    index = demand.index[first : first + n_day * n_step : n_step].floor("D")
    return Days(pd.DataFrame(peaks, index=index, columns=demand.columns), shares, unit)


def days_needed(horizon_days: int, *, at_least: int = LEAST_DAYS, base_weeks: int = BASE_WEEKS) -> int:
    """Whole days of past, `at_least` or more, from which `peak_errors` looks `horizon_days` ahead: the fewest.

    A longer past also has a longer median, so a few days more than enough may be too few.

    Example:
        >>> days_needed(7), days_needed(30), days_needed(30, at_least=44)
        (21, 50, 50)
    """

    def enough(n: int) -> bool:
        return n >= max(WEEK * _weeks(n, base_weeks) + horizon_days + LEAST_STRETCHES - 1, LEAST_DAYS)

    return next(n for n in count(at_least) if enough(n))


def _weeks(n_day: int, most: int = BASE_WEEKS) -> int:
    """Weeks in the median, where the past has `n_day` days."""
    return int(np.clip(n_day // DAYS_PER_BASE_WEEK, 1, most))


def peak_errors(
    peaks: pd.DataFrame, horizon_days: int, *, country: str = "", base_weeks: int = BASE_WEEKS
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What is usual for the days after `peaks`, and how the same rule erred before; both of log(1 + peak).

    Usual (horizon, n_series): the median of the weekday over the newest weeks, with what yesterday's and last week's
    deviation from it still say, with the year's season (two years of past needed) and the effect of quarter ends and
    public holidays of `country`, both from a robust regression. base_weeks: most weeks in the median. Errors (n_stretch, horizon, n_series): of every past
    stretch of that length. Raises TooShortError.
    """
    n = len(peaks)
    weeks = _weeks(n, base_weeks)
    need = days_needed(horizon_days, at_least=n, base_weeks=base_weeks)
    if n < need:
        longest = n - WEEK * weeks - LEAST_STRETCHES + 1
        mend = f"Shorten the horizon to {longest}, or give" if n >= LEAST_DAYS else "Give"
        raise TooShortError(
            f"{plural(n, 'whole day')}; at least {need} are needed to look {plural(horizon_days, 'day')} ahead. {mend} a longer past."
        )
    index = peaks.index.union(peaks.index[-1] + pd.to_timedelta(np.arange(1, horizon_days + 1), unit="D"))
    usual, errors = [], []
    for name in peaks:
        logs = np.log1p(peaks[name].to_numpy(float))
        season = _seasonal(logs, index, country)
        forecast, seen = _by_rule(logs - season[:n], weeks, horizon_days, n)
        usual.append(forecast[-1] + season[n:])
        errors.append(seen - forecast[: len(seen)])
    return np.stack(usual, axis=-1), np.stack(errors, axis=-1)


def _by_rule(clean: np.ndarray, weeks: int, horizon: int, n_fit: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule's forecast from every origin (n_origin, horizon), and what followed (n_stretch, horizon), oldest first.

    The weights of the last days are fitted on what was seen in the first `n_fit` days.
    """
    windows = np.lib.stride_tricks.sliding_window_view(clean, WEEK * weeks)
    median = np.median(windows.reshape(len(windows), weeks, WEEK), axis=1)
    seen = np.lib.stride_tricks.sliding_window_view(clean[WEEK * weeks :], horizon)
    forecast = median[:, np.arange(horizon) % WEEK]
    n_stretch = n_fit - WEEK * weeks - horizon + 1
    if n_stretch >= LEAST_FITTED:
        lately = windows[:, -WEEK:] - median
        state = np.column_stack([lately[:, -1], lately.mean(axis=1)])
        known = state[:n_stretch]
        bound = OUTLIER_MADS * np.median(np.abs(known), axis=0)
        error = (seen - forecast[: len(seen)])[:n_stretch]
        middle = np.median(error, axis=0)
        spread = OUTLIER_MADS * np.median(np.abs(error - middle), axis=0)
        weights = np.linalg.lstsq(
            np.clip(known, -bound, bound), np.clip(error, middle - spread, middle + spread), rcond=None
        )[0]
        forecast = forecast + np.clip(state, -bound, bound) @ weights
    return forecast, seen


def next_days(
    days: Days, first: pd.Timestamp, *, levels: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99), refit_days: int = 30,
    country: str = "", series: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Tomorrow's peak, forecast every day from `first` on from the days before it: one row a day.

    Columns: observed, a quantile per level (q50, q95, ...) in the unit of demand, pit: share of past errors below
    today's. Season and weights are fitted anew every `refit_days`, on the days before. Raises TooShortError.
    """
    logs, index = np.log1p(days.peaks.iloc[:, series].to_numpy(float)), pd.DatetimeIndex(days.peaks.index)
    start = int(index.searchsorted(first))
    weeks = _weeks(start)
    if start < WEEK * weeks + LEAST_STRETCHES or start >= len(index):
        raise TooShortError(
            f"{start} whole days before {first:%Y-%m-%d} and {len(index) - start} from then on: too few."
        )
    rows = []
    for fit in range(start, len(index), refit_days):
        stop = min(fit + refit_days, len(index))
        season = _seasonal(logs[:fit], index[:stop], country)
        forecast, seen = _by_rule(logs[:stop] - season, weeks, 1, fit)
        errors = (seen - forecast[: len(seen)])[:, 0]
        for day in range(fit, stop):
            k = day - WEEK * weeks
            past = np.sort(errors[:k])
            usual = forecast[k, 0] + season[day]
            quantiles = np.expm1(usual + np.quantile(past, levels))
            rows.append((np.expm1(logs[day]), *quantiles, (np.searchsorted(past, errors[k]) + 0.5) / (k + 1)))
    names = ["observed", *(f"q{100 * level:g}" for level in levels), "pit"]
    return pd.DataFrame(rows, index=index[start:], columns=names)


def _seasonal(logs: np.ndarray, index: pd.DatetimeIndex, country: str) -> np.ndarray:
    """Season of the year and effect of events for all days of `index`, the first of which have `logs` (n_day,)."""
    n, years = len(logs), np.asarray(index.dayofyear, dtype=float) / YEAR_DAYS
    angle = 2 * np.pi * years[:, None] * np.arange(1, YEARLY_PAIRS + 1)
    effects = [np.sin(angle), np.cos(angle)] if n >= LEAST_YEARS * YEAR_DAYS else []
    kind = event_of(index, country=country)
    for event in ("holiday", "quarter end"):
        if (kind[:n] == event).sum() >= LEAST_EVENTS:
            effects.append((kind == event)[:, None].astype(float))
    if not effects:
        return np.zeros(len(index))
    wanted = np.hstack(effects)
    other = np.column_stack([np.eye(WEEK)[index.dayofweek], np.arange(len(index)) / YEAR_DAYS])
    fitted = RLM(logs, np.hstack([wanted, other])[:n]).fit(maxiter=20)  # Huber's weights: outages and one-off peaks
    return np.asarray(wanted @ fitted.params[: wanted.shape[1]])


def peak_paths(days: Days, horizon_days: int, *, n_draws: int, rng: np.random.Generator, country: str = "") -> Forecast:
    """Joint paths of the daily peaks after the last day, in days; draw k of every series is the same past stretch.

    Raises TooShortError as `peak_errors`.
    """
    usual, errors = peak_errors(days.peaks, horizon_days, country=country)
    drawn = usual + errors[rng.integers(len(errors), size=n_draws)]
    return Forecast.from_paths(
        np.maximum(np.expm1(drawn), 0.0).transpose(2, 0, 1), issued_at=days.peaks.index[-1], step_seconds=DAY_SECONDS,
        unit=days.unit, model=f"historical simulation, {len(errors)} stretches", series=tuple(map(str, days.peaks.columns)),
    )  # fmt: skip


def day_paths(days: Days, peaks: Forecast, *, rng: np.random.Generator) -> Forecast:
    """The paths of the daily `peaks` at the step of `days`: each day takes the course of a recent day of its weekday.

    The courses are those of the newest eight weeks, the same one for all series. The peak of each day stays its peak.
    """
    n_series, n_draws, horizon = peaks.paths.shape
    n_day, n_step = days.profiles.shape[:2]
    if n_step == 1:
        return peaks
    back = np.minimum(rng.integers(1, PROFILE_WEEKS + 1, size=(n_draws, horizon)), max(1, n_day // WEEK))
    course = np.arange(horizon) % WEEK + n_day - WEEK * back
    paths = peaks.paths[:, :, :, None] * np.moveaxis(days.profiles[course], -1, 0)
    return Forecast.from_paths(
        paths.reshape(n_series, n_draws, horizon * n_step),
        issued_at=peaks.timestamps[0] - pd.Timedelta(seconds=days.step_seconds), step_seconds=days.step_seconds,
        unit=peaks.unit, model=peaks.model, series=peaks.series,
    )  # fmt: skip
