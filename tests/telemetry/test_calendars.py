"""Calendars against published dates and a plain loop over days."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError
from support.telemetry import profile
from support.telemetry.calendars import (
    QUARTER_END_RAMP,
    calendar_features,
    cycle_factor,
    holiday_dates,
    quarter_end_factor,
)

EPOCH = date(1970, 1, 1)


def test_us_holidays_of_2025_are_the_published_ones():
    # Office of Personnel Management, federal holidays 2025
    wanted = ["01-01", "01-20", "02-17", "05-26", "06-19", "07-04", "09-01", "10-13", "11-11", "11-27", "12-25"]
    found = {str(EPOCH + timedelta(int(d)))[5:] for d in holiday_dates("US", 2025, 2025)}
    assert found == set(wanted)


def test_unknown_country_is_refused():
    with pytest.raises(SchemaError, match="'XX' has no calendar"):
        holiday_dates("XX", 2025, 2025)


@pytest.mark.parametrize("country", ["US", "IE", "SG", "BE"])
def test_quarter_end_ramps_over_the_last_five_business_days_and_never_on_a_free_day(country):
    days = np.arange((date(2022, 1, 1) - EPOCH).days, (date(2026, 1, 1) - EPOCH).days)
    free = set(holiday_dates(country, 2021, 2026).tolist())
    wanted = np.ones(len(days))
    for quarter in [date(y, m, 1) for y in range(2022, 2027) for m in (1, 4, 7, 10)][1:]:
        day, left = quarter - timedelta(1), len(QUARTER_END_RAMP)
        while left:  # walk back from the last day of the quarter
            number = (day - EPOCH).days
            if day.weekday() < 5 and number not in free:
                left -= 1
                if days[0] <= number <= days[-1]:
                    wanted[number - days[0]] = QUARTER_END_RAMP[left]
            day -= timedelta(1)
    np.testing.assert_array_equal(quarter_end_factor(days, country), wanted)
    assert wanted.max() == 1.30 and (wanted > 1).sum() == 16 * 5
    assert not set(days[wanted > 1].tolist()) & free


def test_quarter_end_days_do_not_depend_on_the_window():
    days = np.arange(18_000, 19_000)
    whole = quarter_end_factor(days, "US")
    parts = np.concatenate([quarter_end_factor(days[i : i + 7], "US") for i in range(0, 1000, 7)])
    np.testing.assert_array_equal(whole, parts)


def factor(name, first, days, step=3600, **place):
    times = pd.date_range(first, periods=days * 86_400 // step, freq=f"{step}s", tz="UTC")
    return pd.Series(cycle_factor(profile(name), times, **place), index=times)


def test_the_busy_hours_are_local():
    for zone, shift in (("UTC", 0), ("Asia/Singapore", 8), ("America/New_York", -5)):
        day = factor("web_app", "2026-01-12", 4, timezone=zone)  # Monday to Thursday, winter
        middle = day.iloc[24:72]
        by_local_hour = middle.groupby((middle.index.hour + shift) % 24).mean()
        assert set(by_local_hour.nlargest(8).index) == set(range(9, 17))
        assert by_local_hour.max() / by_local_hour.min() == pytest.approx(1.5 / 0.3, rel=0.01)  # as documented


def test_daylight_saving_moves_the_busy_hours_by_one_in_utc():
    winter, summer = (
        factor("web_app", day, 3, timezone="Europe/Brussels").iloc[24:48] for day in ("2026-03-23", "2026-03-30")
    )
    np.testing.assert_allclose(np.roll(winter, -1), summer, rtol=0.02)


def test_weekend_and_holiday_factors():
    year = factor("web_app", "2025-01-01", 365, step=86_400)
    trend = np.exp(np.log1p(profile("web_app").growth_percent_per_month / 100) * np.arange(365) * 12 / 365.25)
    season = 1 + profile("web_app").season_amplitude_frac * np.cos(2 * np.pi * (np.arange(365) + 1 - 349) / 365.25)
    bare = year / trend / season
    assert bare[bare.index.dayofweek >= 5].round(6).unique().tolist() == [profile("web_app").weekend_factor]
    workdays = bare[bare.index.dayofweek < 5].round(6)
    assert sorted(workdays.unique()) == [0.6, 1.0] and (workdays == 0.6).sum() == 11


def test_holidays_leave_loads_without_weekends_alone():
    # a queue of jobs does not read calendars: a type with weekend_factor 1 has no holidays
    assert factor("hpc", "2025-06-30", 7, step=86_400).pct_change().abs().max() < 0.002


def test_growth_is_per_month_of_a_year():
    batch = factor("batch", "2022-01-03", 7 * 52 * 3, step=86_400)  # servers: 0.3 % a month, stated
    weekly = batch.groupby(np.arange(len(batch)) // 7).mean()
    months = (weekly.index - weekly.index[0]) * 7 / (365.25 / 12)
    slope = np.polyfit(months[weekly.index % 52 < 46], np.log(weekly[weekly.index % 52 < 46]), 1)[0]
    assert np.expm1(slope) == pytest.approx(0.003, abs=0.0006)


def test_no_step_at_midnight():
    fine = factor("web_app", "2026-01-12", 3, step=300)
    assert np.abs(np.diff(fine)).max() < 0.1  # the steepest hour, night to morning, in twelve parts


def test_calendar_features_against_datetime():
    index = pd.date_range("2024-02-25", "2025-01-03", freq="1D")
    table = calendar_features(index)
    for day, row in table.iterrows():
        assert (row.year, row.month, row.dayofweek) == (day.year, day.month, day.weekday())
        assert row.is_weekend == (day.weekday() >= 5) and row.quarter == (day.month + 2) // 3
        end = date(day.year + (row.quarter == 4), (row.quarter * 3) % 12 + 1, 1)
        assert row.is_eoq == ((end - day.date()).days <= 7)
    assert table["is_holiday"].sum() == 9
