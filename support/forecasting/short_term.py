"""The next minutes, at every tick: a direct linear model of log demand with conformal quantiles, fast enough for a simulator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecast import LEVELS, Forecast
from support.forecasting.rolling_quantiles import TICK_LEVELS, RollingQuantiles, require_whole

__all__ = ["ShortTermModel", "fit_short_term", "roll_daily"]

WINDOW_MINUTES = (5, 15, 60, 360)
LEAST_ROWS, LEAST_FITTED = 60, 20  # ticks with a known future; those of them before the calibration slice
WINDOW_FRAC = 1 / 8  # a window is at most this part of the history
DAY_SECONDS = 86_400
CALIBRATION_FRAC = 0.3
RIDGE = 1e-3
PRIOR_ROWS = 30  # rows of evidence that the level stays as it is; matters where the history is short
MOST_GROWTH = 2.0  # times the largest demand known; beyond it a law fitted in logarithms is not believed
FLOOR_FRAC = 0.05  # of the mean demand: what is added before the logarithm, at most one request
HALF_LIFE_FRAC = 0.5  # the half-life of a row, as a fraction of the history
DAYS_OF_WEEKS = (
    (42, 3),
    (21, 1),
)  # a history of so many days looks at so many weeks; chosen on days before those judged


@dataclass(frozen=True)
class ShortTermModel:
    """A fitted short-term model; see `fit_short_term`. `notes` say in words what was left out and why."""

    step_seconds: float
    lag_ticks: int
    profile: np.ndarray  # (slots of a day,): log factor by time of day
    coefficients: np.ndarray  # (n_horizon, n_feature)
    errors: np.ndarray  # (n_calibration, n_horizon): scaled log errors on the late slice of the history
    smearing: np.ndarray  # (n_horizon,): mean of exp(error), so that the mean is unbiased (Duan, 1983)
    typical_noise: float
    seasons: tuple[tuple[int, ...], ...]  # ticks back to the same minutes of earlier days, one group a feature
    windows: tuple[int, ...]  # ticks of the past that the features average over
    floor: float  # demand added before the logarithm
    largest: float  # demand of the history
    unit: str
    notes: tuple[str, ...]
    name: str = "direct ridge"

    @property
    def horizon_ticks(self) -> int:
        """Number of ticks ahead, the present one included."""
        return self.coefficients.shape[0]

    @property
    def uses_yesterday(self) -> bool:
        """Whether the history was long enough for a daily profile and the same minutes of yesterday."""
        return bool(self.seasons)

    def roll(self, demand: pd.Series, start: pd.Timestamp) -> RollingQuantiles:
        """Forecast at every tick of `demand` from `start` on; `demand` (n_time,) also holds the past of `start`.

        Row i never sees tick i or later. Raises TooShortError if the past before `start` does not fill the features.
        """
        first = int(demand.index.searchsorted(start))
        centre, scale = self._predict(demand, np.arange(first, len(demand)))
        spread = np.quantile(self.errors, TICK_LEVELS, axis=0).T  # (horizon, level)
        known = np.maximum.accumulate(demand.to_numpy(float))[np.arange(first, len(demand)) - 1 - self.lag_ticks]
        quantiles = self._demand(centre[..., None] + scale[:, None, None] * spread, known[:, None, None])
        mean = self._demand(centre + np.log(self.smearing), known[:, None])
        return RollingQuantiles(demand.index[first:], TICK_LEVELS, quantiles, mean, self.name, self.lag_ticks)

    def forecast(self, demand: pd.Series, *, n_draws: int, rng: np.random.Generator) -> Forecast:
        """Forecast from the end of `demand`: joint paths by drawing whole error vectors of the calibration slice."""
        centre, scale = self._predict(demand, np.array([len(demand)]))
        drawn = self.errors[rng.integers(0, len(self.errors), n_draws)]
        paths = self._demand(centre[0] + scale[0] * drawn, demand.max())[None]
        return Forecast.from_paths(
            paths,
            issued_at=demand.index[-1],
            step_seconds=self.step_seconds,
            unit=self.unit,
            model=self.name,
            levels=LEVELS,
        )

    def _demand(self, logs: np.ndarray, known: np.ndarray | float) -> np.ndarray:
        """Demand from its logarithm, from 0 to MOST_GROWTH times the largest demand of the history or `known` since."""
        most = np.maximum(MOST_GROWTH * np.maximum(known, self.largest), self.floor)
        return self.floor * np.expm1(np.clip(logs, 0.0, np.log1p(most / self.floor)))

    def _predict(self, demand: pd.Series, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre (n_row, n_horizon) and scale (n_row,) of log(1 + demand / floor) for ticks `rows`."""
        need = _reach(self.windows, self.lag_ticks, self.seasons)
        if not len(rows) or rows[0] < need:
            raise TooShortError(
                f"{self.name}: needs {need} ticks before the first forecast, there are {rows[0] if len(rows) else 0}."
            )
        features, base, noise = _features(
            demand / self.floor, self.profile, self.windows, self.horizon_ticks, self.lag_ticks, self.step_seconds,
            self.seasons, rows,
        )  # fmt: skip
        season = _season(demand.index, self.profile, self.step_seconds, self.horizon_ticks)
        ahead = season[rows[:, None] + np.arange(self.horizon_ticks)]
        centre = ahead + base[:, None] + np.einsum("nhf,hf->nh", features, self.coefficients)
        return centre, _scale(noise, self.typical_noise)


def fit_short_term(
    history: pd.Series, *, horizon_ticks: int, lag_ticks: int = 0, weeks: int | None = None
) -> ShortTermModel:
    """Fit the model of the next `horizon_ticks` ticks on `history` (n_time,), demand per tick on a regular UTC index.

    log(1 + demand / floor) = daily profile + level, where the floor is one request or, below 20 a tick, 5 % of the
    mean, so that the unit of the demand does not matter; what the level does next is a ridge regression, one per
    horizon, on recent level differences and on what the same minutes did yesterday. Quantiles are split-conformal
    (Vovk et al., 2005): errors of the last 30 % of the history, divided by a recent noise scale. With less than 4 days
    there is no profile and no yesterday, and `notes` says so. weeks: also what the same minutes did at this time of the
    week, the median of so many weeks before; None: 3 from 42 days of history on, 1 from 21, else none. Raises
    TooShortError below 60 ticks, SchemaError for weeks below zero or without a daily profile, and for missing values.

    Example:
        >>> index = pd.date_range("2026-01-01", periods=600, freq="60s", tz="UTC")
        >>> fit_short_term(pd.Series(10.0, index=index, name="requests"), horizon_ticks=3).horizon_ticks
        3
    """
    require_whole(history, "history")
    step = float((history.index[1] - history.index[0]).total_seconds())
    per_day = DAY_SECONDS / step
    fits = per_day == round(per_day) and horizon_ticks + lag_ticks <= per_day  # else yesterday reaches into the future
    seasonal = len(history) >= 4 * per_day - lag_ticks and fits
    notes = () if seasonal else ("shorter than four days: no daily profile, only the recent level",)
    if not fits:
        notes = (
            "the horizon is longer than a day, or the day no whole number of ticks: no daily profile, only the recent level",
        )
    if weeks is None:
        weeks = next((n for days, n in DAYS_OF_WEEKS if seasonal and len(history) >= days * per_day), 0)
    if weeks < 0 or (weeks and not seasonal):
        raise SchemaError(
            f"fit_short_term: weeks is {weeks}; 0 or more, with a daily profile. {' '.join(notes)}".rstrip()
        )
    day = round(per_day)
    seasons = ((day,), tuple(7 * day * w for w in range(1, weeks + 1)))[: 1 + (weeks > 0)] if seasonal else ()
    floor = min(1.0, FLOOR_FRAC * float(history.mean())) or 1.0
    largest = float(history.max())
    unit, history = f"{history.name} per {step:g} s", history / floor
    windows = _windows(step, len(history))
    need = _reach(windows, lag_ticks, seasons)
    rows = np.arange(need, len(history) - horizon_ticks + 1)
    least = max(LEAST_ROWS, math.ceil((horizon_ticks + LEAST_FITTED + 1) / (1 - CALIBRATION_FRAC)))
    if len(rows) < least:
        enough = next(
            n
            for n in count(len(history) + 1)
            if n >= _reach(_windows(step, n), lag_ticks, seasons) + least + horizon_ticks
        )
        raise TooShortError(
            f"history: {len(history)} ticks of {step:g} s; at least {enough} are needed ({enough * step / 3600:.1f} hours)."
        )
    cut = rows[int(len(rows) * (1 - CALIBRATION_FRAC))]  # the profile, too, is fitted before the calibration slice
    profile = _fit_profile(history.iloc[:cut], step) if seasonal else np.zeros(max(1, round(per_day)))
    features, base, noise = _features(history, profile, windows, horizon_ticks, lag_ticks, step, seasons, rows)
    residual = np.log1p(history.to_numpy(float)) - _season(history.index, profile, step, 0)
    target = residual[rows[:, None] + np.arange(horizon_ticks)] - base[:, None]
    early, late = rows < cut - horizon_ticks, rows >= cut
    weight = _weights(history, rows[early])
    coefficients = np.stack([_ridge(features[early, h], target[early, h], weight) for h in range(horizon_ticks)])
    typical = float(np.median(noise[early]))
    log_errors = (target - np.einsum("nhf,hf->nh", features, coefficients))[late]
    errors = log_errors / _scale(noise[late], typical)[:, None]
    return ShortTermModel(
        step, lag_ticks, profile, coefficients, errors, np.exp(log_errors).mean(axis=0), typical, seasons, windows,
        floor, largest, unit, notes,
    )  # fmt: skip


def roll_daily(
    demand: pd.Series, start: pd.Timestamp, *, train_days: float, horizon_ticks: int, lag_ticks: int = 0,
    weeks: int | None = None,
) -> RollingQuantiles:  # fmt: skip
    """Forecast every tick from `start` on, fitting anew each day on the `train_days` before it (all of it past data).

    `demand` (n_time,) holds the past and the evaluated ticks. weeks, errors: as `fit_short_term`; SchemaError, too, if
    `start` is after the last tick.
    """
    require_whole(demand, "demand")
    if start > demand.index[-1]:
        raise SchemaError(f"start: {start} is after the last tick, {demand.index[-1]}; there is nothing to forecast.")
    step = float((demand.index[1] - demand.index[0]).total_seconds())
    pieces, day = [], start
    while day <= demand.index[-1]:
        end = day + pd.Timedelta(days=1)
        known = day - pd.Timedelta(seconds=lag_ticks * step)  # the newest ticks have not arrived when the day begins
        past = demand[(demand.index >= known - pd.Timedelta(days=train_days)) & (demand.index < known)]
        model = fit_short_term(past, horizon_ticks=horizon_ticks, lag_ticks=lag_ticks, weeks=weeks)
        pieces.append(model.roll(demand[(demand.index >= past.index[0]) & (demand.index < end)], day))
        day = end
    return RollingQuantiles(
        demand.index[demand.index >= start], pieces[0].levels, np.concatenate([p.quantiles for p in pieces]),
        np.concatenate([p.mean for p in pieces]), pieces[0].model, lag_ticks,
    )  # fmt: skip


def _windows(step: float, n_history: int) -> tuple[int, ...]:
    most = max(1, int(n_history * WINDOW_FRAC))
    return tuple(sorted({min(max(1, round(m * 60 / step)), most) for m in WINDOW_MINUTES}))


def _reach(windows: tuple[int, ...], lag: int, seasons: tuple[tuple[int, ...], ...]) -> int:
    """Ticks of past that the features of one row touch."""
    return windows[-1] + lag + 2 + max((max(group) for group in seasons), default=0)


def _slots(index: pd.DatetimeIndex, step: float, n_slots: int) -> np.ndarray:
    seconds = index.hour * 3600 + index.minute * 60 + index.second
    return np.asarray(seconds // step, dtype=int) % n_slots


def _season(index: pd.DatetimeIndex, profile: np.ndarray, step: float, extra: int) -> np.ndarray:
    """Profile value at every tick of `index` and `extra` ticks after it."""
    if extra:
        index = index.append(pd.date_range(index[-1], periods=extra + 1, freq=pd.Timedelta(seconds=step))[1:])
    return profile[_slots(index, step, len(profile))]


def _fit_profile(history: pd.Series, step: float) -> np.ndarray:
    """Mean deviation of log demand from its centred 24-hour mean, by time of day, smoothed over half an hour.

    The centred mean has no step at midnight, so neither has a forecast that crosses it.
    """
    n_slots = round(DAY_SECONDS / step)
    logs = pd.Series(np.log1p(history.to_numpy(float)))
    deviation = (logs - logs.rolling(n_slots, center=True, min_periods=n_slots // 2).mean()).to_numpy()
    slot = _slots(history.index, step, n_slots)
    profile = np.bincount(slot, deviation, n_slots) / np.maximum(np.bincount(slot, minlength=n_slots), 1)
    half = max(0, round(900 / step))
    if half:
        kernel = np.ones(2 * half + 1) / (2 * half + 1)
        profile = np.convolve(np.r_[profile[-half:], profile, profile[:half]], kernel, "valid")
    return profile


def _features(
    demand: pd.Series, profile: np.ndarray, windows: tuple[int, ...], horizon: int, lag: int, step: float,
    seasons: tuple[tuple[int, ...], ...], rows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Features (n_row, horizon, n_feature), base level (n_row,) and recent noise (n_row,) of log demand; past only."""
    level = np.log1p(demand.to_numpy(float)) - _season(demand.index, profile, step, 0)
    sums = np.concatenate([[0.0], np.cumsum(level)])
    jumps = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(level, prepend=level[0])))])
    end = rows - lag  # exclusive end of what is known

    def mean(stop: np.ndarray, width: int) -> np.ndarray:
        return (sums[stop] - sums[stop - width]) / width

    base = mean(end, windows[0])
    common = [
        level[end - 1] - base,
        level[end - 2] - base,
        *(mean(end, w) - base for w in windows[1:]),
        np.ones(len(rows)),
    ]
    features = np.repeat(np.stack(common, axis=-1)[:, None, :], horizon, axis=1)
    for group in seasons:  # what the level did from the same minute on, a day or some weeks ago
        then = [
            level[(rows - back)[:, None] + np.arange(horizon)] - mean(end - back, windows[0])[:, None] for back in group
        ]
        features = np.concatenate([features, np.median(then, axis=0)[..., None]], axis=-1)
    wide = windows[min(2, len(windows) - 1)]
    noise = (jumps[end] - jumps[end - wide]) / wide
    return features, base, noise


def _scale(noise: np.ndarray, typical: float) -> np.ndarray:
    """Half-way (geometrically) between the recent noise and the typical one, which keeps quiet nights from exploding."""
    return np.sqrt(np.maximum(noise, 1e-9) / max(typical, 1e-9)).clip(0.5, 3.0)


def _weights(history: pd.Series, rows: np.ndarray) -> np.ndarray:
    """Weight of each training row: recent ones count more, and busy ones, where a wrong log costs most requests."""
    recent = np.exp2((rows - rows[-1]) / (HALF_LIFE_FRAC * len(rows)))
    busy = np.log1p(history.to_numpy(float))[rows - 1]
    return recent * np.exp(np.clip(busy - busy.max(), -5.0, 0.0))


def _ridge(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares with a penalty in proportion to each feature's own size."""
    gram = (weight[:, None] * x).T @ x
    penalty = RIDGE + PRIOR_ROWS / len(x)
    return np.linalg.solve(gram + np.diag(penalty * np.diag(gram) + 1e-9), (weight[:, None] * x).T @ y)
