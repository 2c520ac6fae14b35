"""Days and their peaks: whole days, usual peaks against loops, joint draws, courses that keep their peak."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, TooShortError
from support.risk.daily import day_paths, days_needed, next_days, peak_errors, peak_paths, split_days


def hours(n_days, seed=0, n_series=1, start="2026-01-01 05:00"):
    index = pd.date_range(start, periods=24 * n_days, freq="1h", tz="UTC")
    rng = np.random.default_rng(seed)
    shape = 10 + 5 * np.sin(2 * np.pi * index.hour.to_numpy() / 24) - 3 * (index.dayofweek.to_numpy() >= 5)
    level = np.exp(np.repeat(np.cumsum(rng.normal(0, 0.02, n_days + 1)), 24)[: len(index)])
    noise = rng.uniform(0.9, 1.1, (len(index), n_series))
    return pd.DataFrame(shape[:, None] * level[:, None] * noise, index, [f"s{k}" for k in range(n_series)])


def test_days_are_whole_and_their_peaks_the_maximum():
    demand = hours(12)
    days = split_days(demand, unit="cores")
    assert len(days.peaks) == 11 and days.peaks.index[0] == pd.Timestamp("2026-01-02", tz="UTC")
    for day, peak in days.peaks["s0"].items():
        assert peak == demand.loc[day : day + pd.Timedelta(hours=23), "s0"].max()
    assert days.profiles.shape == (11, 24, 1) and days.profiles.max(axis=1) == pytest.approx(1.0)
    assert days.step_seconds == 3600 and len(days.until(pd.Timestamp("2026-01-05", tz="UTC")).peaks) == 4
    both = split_days(hours(12, n_series=2), unit="cores")
    alone = both.only(pd.Index(["s1"]))
    assert list(alone.peaks) == ["s1"] and (alone.profiles[:, :, 0] == both.profiles[:, :, 1]).all()
    shifted = demand.set_axis(demand.index + pd.Timedelta(minutes=7))
    assert split_days(shifted, unit="cores").peaks.index[0] == pd.Timestamp("2026-01-02", tz="UTC")


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda d: d * 0 + 4, "constant"), (lambda d: -d, "below zero"), (lambda d: d.where(d > 9), "missing")],
)
def test_demand_that_cannot_be_planned_is_refused(change, told):
    with pytest.raises(SchemaError, match=told):
        split_days(change(hours(12)), unit="cores")


def test_steps_that_do_not_fit_and_too_short_a_past_are_refused():
    with pytest.raises(SchemaError, match="divide"):
        split_days(hours(12).iloc[::7], unit="cores")
    with pytest.raises(TooShortError, match="whole day"):
        split_days(hours(1).iloc[:5], unit="cores")
    days = split_days(hours(21), unit="cores")
    with pytest.raises(TooShortError, match="at least 21"):
        peak_errors(days.peaks, 5)
    with pytest.raises(TooShortError, match="Shorten"):
        peak_errors(split_days(hours(40), unit="cores").peaks, 35)


def test_usual_peaks_and_errors_are_what_a_loop_finds():
    peaks = split_days(hours(80, n_series=2), unit="cores").peaks  # 79 days: too few to weigh the last days
    usual, errors = peak_errors(peaks, 10)
    logs = np.log1p(peaks.to_numpy())
    n, weeks = len(logs), 3
    assert errors.shape == (n - 7 * weeks - 10 + 1, 10, 2)
    for origin in (21, 50, n - 10):
        for h in (0, 6, 9):
            own = np.median([logs[origin + h % 7 - 7 * k] for k in range(1, weeks + 1)], axis=0)
            assert errors[origin - 21, h] == pytest.approx(logs[origin + h] - own)
    assert usual[8] == pytest.approx(np.median([logs[n + 1 - 7 * k] for k in range(1, weeks + 1)], axis=0))


def test_the_last_days_are_weighed_where_they_tell_something():
    rng = np.random.default_rng(0)
    slow = np.zeros(500)
    for t in range(1, 500):
        slow[t] = 0.9 * slow[t - 1] + rng.normal(0, 0.1)
    index = pd.date_range("2026-01-01", periods=500, freq="1D", tz="UTC")
    _, errors = peak_errors(pd.DataFrame({"web": np.expm1(8 + slow)}, index), 1)
    assert 0.09 < errors.std() < 0.13  # the innovation is 0.1; without the last days it would be over 0.2
    _, free = peak_errors(pd.DataFrame({"web": np.expm1(8 + rng.normal(0, 0.1, 500))}, index), 1)
    assert free.std() < 0.12  # nothing to learn: no harm


def test_tomorrow_is_forecast_from_the_days_before_it():
    days = split_days(hours(400), unit="cores")
    first = days.peaks.index[300]
    made = next_days(days, first)
    assert list(made) == ["observed", "q50", "q90", "q95", "q99", "pit"] and made.index[0] == first
    assert made["observed"].to_numpy() == pytest.approx(days.peaks["s0"].iloc[300:].to_numpy())
    usual, errors = peak_errors(days.peaks.iloc[:300], 1)
    assert np.log1p(made["q95"].iloc[0]) == pytest.approx(usual[0, 0] + np.quantile(errors[:, 0, 0], 0.95))
    changed = split_days(hours(400), unit="cores")
    changed.peaks.iloc[350:] *= 3  # the future must not matter
    again = next_days(changed, first)
    pd.testing.assert_frame_equal(made.iloc[:50], again.iloc[:50])
    assert 0.4 < made["pit"].mean() < 0.6 and made["pit"].between(0, 1, inclusive="neither").all()
    with pytest.raises(TooShortError):
        next_days(days, days.peaks.index[5])


def test_two_years_bring_the_season_of_the_year_and_events():
    index = pd.date_range("2022-01-01", periods=1096, freq="1D", tz="UTC")
    season = np.exp(0.3 * np.sin(2 * np.pi * index.dayofyear.to_numpy() / 365.25))
    noise = np.random.default_rng(0).normal(0, 0.01, len(index))
    peaks = pd.DataFrame({"web": np.expm1(np.log(1000 * season) + noise)}, index)
    usual, errors = peak_errors(peaks.iloc[:900], 90)
    truth = np.log(1000 * season[900:990])
    assert np.abs(usual[:, 0] - truth).max() < 0.05 < np.abs(truth - truth[0]).max()  # the season moves by far more
    assert np.abs(errors).mean() < 0.03


def test_paths_are_joint_over_days_and_series():
    days = split_days(hours(200, n_series=2), unit="cores")
    made = peak_paths(days, 14, n_draws=300, rng=np.random.default_rng(0))
    assert made.paths.shape == (2, 300, 14) and made.step_seconds == 86_400 and made.series == ("s0", "s1")
    assert made.timestamps[0] == days.peaks.index[-1] + pd.Timedelta(days=1)
    usual, errors = peak_errors(days.peaks, 14)
    possible = np.expm1(usual + errors).transpose(0, 2, 1)
    for k in range(20):  # each draw is one past stretch, the same for both series
        assert np.isclose(possible, made.paths[:, k], atol=1e-9).all(axis=(1, 2)).any()


def test_courses_keep_the_peak_of_their_day_and_their_weekday():
    days = split_days(hours(100, n_series=2), unit="cores")
    peaks = peak_paths(days, 9, n_draws=40, rng=np.random.default_rng(0))
    made = day_paths(days, peaks, rng=np.random.default_rng(1))
    assert made.paths.shape == (2, 40, 9 * 24) and made.timestamps[0] == peaks.timestamps[0]
    by_day = made.paths.reshape(2, 40, 9, 24)
    assert by_day.max(axis=-1) == pytest.approx(peaks.paths)
    shares = by_day[:, 3, 2] / peaks.paths[:, 3, 2, None]
    same = days.peaks.index.dayofweek == peaks.timestamps[2].dayofweek
    assert np.isclose(days.profiles[same].transpose(0, 2, 1), shares).all(axis=(1, 2)).any()
    daily = split_days(days.peaks.iloc[:60], unit="cores")
    alone = peak_paths(daily, 5, n_draws=3, rng=np.random.default_rng(0))
    assert day_paths(daily, alone, rng=np.random.default_rng(0)) is alone


@pytest.mark.parametrize("horizon", [3, 8, 30, 46])
def test_the_days_needed_are_those_from_which_paths_can_be_had(horizon):
    n = days_needed(horizon)
    peaks = pd.DataFrame({"web": 5 + np.arange(n) % 7}, pd.date_range("2026-01-05", periods=n, freq="1D", tz="UTC"))
    assert len(peak_errors(peaks, horizon)[1]) >= 7
    with pytest.raises(TooShortError, match=f"at least {n} "):
        peak_errors(peaks.iloc[:-1], horizon)
