"""Calendars: the hour of the week, holidays, quarter ends and seasons, as factors on load and as columns."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.schema import DERIVED, METRICS, Telemetry
from support.telemetry.taxonomy import Profile

__all__ = ["QUARTER_END_RAMP", "calendar_features", "cycle_factor", "flat", "holiday_dates", "quarter_end_factor"]

DAY_SECONDS = 86_400
# Load on the last five business days of a quarter. AWS-CapacityForecaster, fleet calendar.
QUARTER_END_RAMP = (1.06, 1.12, 1.18, 1.24, 1.30)
HOLIDAY_FACTOR = 0.6  # between its 0.5 (New Year) and 0.7 (Independence Day); for loads that also drop on weekends
SEASON_PEAK_DAY = 349  # day of the year of the highest season, 15 December
MONTH_SECONDS = 365.25 / 12 * DAY_SECONDS
# Local hours of the busy block and of its shoulders on both sides. hello-cloud, daily curve; evening, night: this book.
BUSY_HOURS = {"business": (9, 17, 3), "evening": (18, 23, 3), "night": (1, 6, 2), "flat": (0, 0, 0)}


@cache
def holiday_dates(country: str, first_year: int, last_year: int) -> np.ndarray:
    """Public holidays of a country (ISO code), days since the epoch, sorted. Source: the `holidays` library.

    Raises SchemaError for an unknown country.
    """
    import holidays  # half a second, only needed where a calendar is

    try:
        days = holidays.country_holidays(country, years=range(first_year, last_year + 1))
    except NotImplementedError:
        raise SchemaError(f"country {country!r} has no calendar of holidays. Use an ISO code such as US.") from None
    return np.sort(np.array([np.datetime64(day) for day in days], dtype="datetime64[D]").astype(int))


def _years(days: np.ndarray) -> tuple[int, int]:
    years = np.array([days.min(), days.max()], dtype="datetime64[D]").astype("datetime64[Y]").astype(int) + 1970
    return int(years[0]), int(years[1])


def quarter_end_factor(days: np.ndarray, country: str) -> np.ndarray:
    """Factor of the quarter-end close, shape (n_days,): 1.06 to 1.30 on the last five business days of a quarter, else 1.

    days: days since the epoch. Business days are Monday to Friday without the country's public holidays, so the close
    never falls on a holiday: that is how the clash of the two, 27 to 31 December above all, is resolved.

    Example:
        >>> day = np.datetime64("2025-12-31").astype(int)
        >>> quarter_end_factor(np.array([day - 6, day]), "US").tolist()
        [1.0, 1.3]
    """
    first, last = _years(days)
    free = holiday_dates(country, first, last + 1).astype("datetime64[D]")
    starts = np.arange(f"{first}-01", f"{last + 1}-02", 3, dtype="datetime64[M]")[1:].astype("datetime64[D]")
    ramp = {}
    for back, factor in enumerate(reversed(QUARTER_END_RAMP), start=1):
        for day in np.busday_offset(starts, -back, roll="forward", holidays=free).astype(int):
            ramp[int(day)] = factor
    keys = np.array(sorted(ramp))
    values = np.array([ramp[k] for k in keys])
    where = np.searchsorted(keys, days).clip(max=len(keys) - 1)
    return np.where(keys[where] == days, values[where], 1.0)


def _daily_shape(profile: Profile) -> np.ndarray:
    """Load per local hour, shape (24,), mean 1."""
    start, end, shoulder = BUSY_HOURS[profile.pattern]
    shape = np.full(24, profile.night_factor)
    hours = np.arange(24)
    since = (hours - start) % 24
    shape[(since >= 24 - shoulder) | ((since >= end - start) & (since < end - start + shoulder))] = 1 + 0.4 * (
        profile.business_factor - 1
    )
    shape[since < end - start] = profile.business_factor
    return shape / shape.mean()


def _day_factor(days: np.ndarray, profile: Profile, country: str, quarter_end: bool) -> np.ndarray:
    """Factor per local day: weekend, holiday, quarter end, season."""
    weekday = (days + 3) % 7  # the epoch was a Thursday
    factor = np.where(weekday >= 5, profile.weekend_factor, 1.0)
    if profile.weekend_factor < 1:
        free = np.isin(days, holiday_dates(country, *_years(days))) & (weekday < 5)
        factor[free] *= HOLIDAY_FACTOR
    if profile.season_amplitude_frac:
        day_of_year = days - days.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(int)
        factor *= 1 + profile.season_amplitude_frac * np.cos(2 * np.pi * (day_of_year + 1 - SEASON_PEAK_DAY) / 365.25)
    return factor * quarter_end_factor(days, country) if quarter_end else factor


def cycle_factor(
    profile: Profile,
    times: pd.DatetimeIndex,
    *,
    timezone: str = "UTC",
    country: str = "US",
    quarter_end: bool = False,
) -> np.ndarray:
    """Deterministic factor on load at `times` (UTC, even step), shape (n_time,): hour, weekday, holiday, season, growth.

    Hours and days are those of `timezone`; a step of a day or more is the date as it is written. The mean over a
    working day is 1; growth compounds from the first time on, per month of 30.44 days.
    """
    step = (times[1] - times[0]).total_seconds() if len(times) > 1 else 3600.0
    seconds = times.asi8 // 10**9 if times.unit == "ns" else times.as_unit("ns").asi8 // 10**9
    if step >= DAY_SECONDS:
        factor = _day_factor(seconds // DAY_SECONDS, profile, country, quarter_end)
    else:
        hours = np.arange(seconds[0] // 3600, seconds[-1] // 3600 + 2) * 3600
        zone = pd.to_datetime(hours, unit="s", utc=True).tz_convert(timezone)
        local = zone.tz_localize(None).as_unit("s").asi8
        at_hours = _daily_shape(profile)[local // 3600 % 24]
        days, position = np.unique(local // DAY_SECONDS, return_inverse=True)
        at_hours = at_hours * _day_factor(days, profile, country, quarter_end)[position]
        # an hour's value holds at its middle, straight lines between: no jump at the full hour
        factor = at_hours[:-1] if step == 3600 and not seconds[0] % 3600 else np.interp(seconds, hours + 1800, at_hours)
    months = (seconds - seconds[0]) / MONTH_SECONDS
    return factor * np.exp(np.log1p(profile.growth_percent_per_month / 100) * months)


def calendar_features(
    index: pd.DatetimeIndex, *, country: str = "US", quarter_end_window_days: int = 7
) -> pd.DataFrame:
    """Calendar columns of `index` (UTC or local): year, month, quarter, dayofweek, is_weekend, is_eoq, is_holiday.

    is_eoq marks the last `quarter_end_window_days` calendar days of a quarter. Holidays: the `holidays` library.

    Example:
        >>> calendar_features(pd.DatetimeIndex(["2025-07-04"]))["is_holiday"].tolist()
        [True]
    """
    local = index.tz_localize(None) if index.tz is not None else index
    days = local.as_unit("s").asi8 // DAY_SECONDS
    unique, position = np.unique(days, return_inverse=True)
    dates = pd.DatetimeIndex(unique.astype("datetime64[D]").astype("datetime64[s]"))
    left = (dates + pd.offsets.QuarterEnd(0) - dates).days
    columns = {
        "year": dates.year,
        "month": dates.month,
        "quarter": dates.quarter,
        "dayofweek": dates.dayofweek,
        "is_weekend": dates.dayofweek >= 5,
        "is_eoq": left < quarter_end_window_days,
        "is_holiday": np.isin(unique, holiday_dates(country, *_years(unique))),
    }
    return pd.DataFrame({name: np.asarray(values)[position] for name, values in columns.items()}, index=index)


def flat(telemetry: Telemetry, *, calendar: bool = True, country: str = "US") -> pd.DataFrame:
    """One wide table: timestamp, resource_id, the metrics, the columns of the resource, and the calendar's columns.

    The derived flags come with it if there are any. Text columns are categories, so a million rows stay small.

    Example:
        >>> from support.telemetry import load
        >>> flat(load("synthetic", seed=1, days=1)).columns[:3].tolist()
        ['timestamp', 'resource_id', 'requests']
    """
    frame = telemetry.observations
    codes = frame.index.codes[0]
    ids, stamps = frame.index.levels[0], frame.index.levels[1]
    columns: dict[str, object] = {
        "timestamp": frame.index.get_level_values(1),
        "resource_id": pd.Categorical.from_codes(codes, ids),
    }
    columns |= {m: frame[m].to_numpy() for m in METRICS if m in frame.columns and m not in DERIVED}
    columns |= {m: frame[m].to_numpy() for m in DERIVED if m in frame.columns}
    for name in telemetry.resources.columns:
        of_id = telemetry.resources[name].reindex(ids)
        if of_id.dtype == object:
            category = pd.Categorical(of_id)
            columns[name] = pd.Categorical.from_codes(category.codes[codes], category.categories)
        else:
            columns[name] = of_id.to_numpy()[codes]
    if calendar:
        days = calendar_features(stamps, country=country)
        columns |= {name: days[name].to_numpy()[frame.index.codes[1]] for name in days}
    return pd.DataFrame(columns)
