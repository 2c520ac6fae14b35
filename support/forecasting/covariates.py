"""Covariates a forecast may use: those that can be computed for any date, and past observations, lagged far enough.

There is no argument for values of the future: it is computed from dates, so actual values cannot slip in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.calendars import holiday_dates

__all__ = ["Calendar", "KnownCovariates", "days_off", "fourier"]

# dates (n_time,) -> covariates (n_time, n_covariate); each row depends on its own date alone
Calendar = Callable[[pd.DatetimeIndex], np.ndarray]
FAR = pd.Timedelta(days=3653)  # ten years on: a calendar has values there, a table of observations has not
SATURDAY = 5  # Monday is 0


@dataclass(frozen=True)
class KnownCovariates:
    """What is known about the steps after a context whose times are `times` (n_time,), regular, UTC.

    calendar: computed from dates alone. observed: past observations, index `times`; never known ahead, so the model
    sees, in the past and in the future alike, the value a whole number of seasons ago that is known at every step of
    the horizon. Raises SchemaError if `observed` has rows that are not in the context, such as later ones.

    Example:
        >>> times = pd.date_range("2026-01-02", periods=2, freq="1D", tz="UTC")  # a Friday and a Saturday
        >>> past, future = KnownCovariates(times, days_off()).matrices(2, season=1)
        >>> past.ravel().tolist(), future.ravel().tolist()
        ([0.0, 1.0], [1.0, 0.0])
    """

    times: pd.DatetimeIndex
    calendar: Calendar | None = None
    observed: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        if len(self.times) < 2 or len(set(np.diff(self.times.asi8))) != 1:
            raise SchemaError("covariates: the times of the context are not regular. Fill the grid first.")
        if self.observed is not None and not self.observed.index.equals(self.times):
            late = int((self.observed.index > self.times[-1]).sum())
            raise SchemaError(
                f"covariates: observations must have the times of the context; {late} rows lie after it. Their future "
                "is not known: cut them at the cut-off, and they are lagged."
            )

    def matrices(self, horizon: int, *, season: int) -> tuple[np.ndarray, np.ndarray]:
        """Covariates of the context (n_time, k) and of the `horizon` steps after it (horizon, k); season in steps.

        The first rows of a lagged covariate, where nothing is known yet, hold its first value. Raises SchemaError for
        a calendar that is none: not finite, of another shape, or dependent on which dates are asked together.
        """
        n, step = len(self.times), self.times[1] - self.times[0]
        after = pd.DatetimeIndex(self.times[-1] + step * np.arange(1, horizon + 1))
        past, future = [np.empty((n, 0))], [np.empty((horizon, 0))]
        if self.calendar is not None:
            table, alone = self._ask(self.times.append(after)), self._ask(after)
            self._ask(after + FAR)
            if not np.array_equal(table[n:], alone):
                raise SchemaError("covariates: the calendar answers differently when asked for the future alone.")
            past.append(table[:n])
            future.append(alone)
        if self.observed is not None:
            lag = season * -(-horizon // season)
            values = self.observed.to_numpy(float)
            rows = np.arange(n + horizon) - lag
            lagged = values[np.clip(rows, 0, n - 1)]
            past.append(lagged[:n])
            future.append(lagged[n:])
        return np.hstack(past), np.hstack(future)

    def _ask(self, times: pd.DatetimeIndex) -> np.ndarray:
        assert self.calendar is not None
        try:
            table = np.asarray(self.calendar(times), dtype=float)
        except (KeyError, IndexError) as error:
            raise SchemaError(f"covariates: the calendar has no value at {times[0]}: {error}.") from error
        if table.ndim != 2 or len(table) != len(times):
            raise SchemaError(f"covariates: the calendar gave shape {table.shape}, wanted ({len(times)}, k).")
        if not np.isfinite(table).all():
            bad = times[int(np.argmin(np.isfinite(table).all(axis=1)))]
            raise SchemaError(f"covariates: the calendar has no value at {bad}, so it is a table of data.")
        return table


def days_off(country: str = "", timezone: str = "UTC") -> Calendar:
    """A calendar with one column: 1 on Saturdays, Sundays and, with a `country` (ISO code), its public holidays.

    Days are those of `timezone`. Raises SchemaError for an unknown country, when it is asked.

    Example:
        >>> days_off("US")(pd.DatetimeIndex(["2026-01-01", "2026-01-02"], tz="UTC")).tolist()
        [[1.0], [0.0]]
    """

    def calendar(times: pd.DatetimeIndex) -> np.ndarray:
        local = times.tz_convert(timezone).tz_localize(None)
        off = local.dayofweek.to_numpy() >= SATURDAY
        if country:
            days = local.to_numpy().astype("datetime64[D]").astype(int)
            off |= np.isin(days, holiday_dates(country, int(local.year.min()), int(local.year.max())))
        return off[:, None].astype(float)

    return calendar


def fourier(steps: np.ndarray, period: float, n_pairs: int) -> np.ndarray:
    """Sine and cosine of the first `n_pairs` harmonics at `steps` (n_time,), shape (n_time, 2 * n_pairs).

    Harmonics at or above half the sampling rate are left out. Source: Hyndman and Athanasopoulos (2021), section 7.4.

    Example:
        >>> fourier(np.arange(4), 4, 3).round(6).tolist()
        [[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, -0.0]]
    """
    harmonics = np.arange(1, min(n_pairs, int((np.ceil(period) - 1) // 2)) + 1)
    angle = 2 * np.pi * steps[:, None] * harmonics / period
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(len(steps), -1)
