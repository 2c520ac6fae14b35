"""Known covariates: the calendar by the day, lags by loop, and no way in for values of the future."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.forecasting.covariates import KnownCovariates, days_off, fourier

TIMES = pd.date_range("2026-06-29", periods=72, freq="1h", tz="UTC")


def test_days_off_against_pandas_and_known_holidays():
    times = pd.date_range("2026-01-01", "2026-12-31 23:00", freq="1h", tz="UTC")
    off = days_off("US")(times)[:, 0]
    by_day = pd.Series(off, times).groupby(times.date).agg(["min", "max"])
    assert (by_day["min"] == by_day["max"]).all()
    for day in ("2026-01-01", "2026-07-03", "2026-07-04", "2026-12-25", "2026-08-15"):
        assert by_day.loc[pd.Timestamp(day).date(), "min"] == 1, day
    weekend = np.array([d.isoweekday() > 5 for d in by_day.index])
    assert by_day["min"][weekend].all() and 8 <= by_day["min"][~weekend].sum() <= 12
    np.testing.assert_array_equal(days_off()(times)[:, 0], [t.isoweekday() > 5 for t in times])


def test_a_day_is_that_of_the_timezone():
    friday_evening = pd.DatetimeIndex(["2026-07-10 23:30"], tz="UTC")
    assert days_off()(friday_evening).item() == 0 and days_off(timezone="Europe/Paris")(friday_evening).item() == 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 30))
def test_observed_covariates_are_lagged_by_whole_seasons(season, horizon):
    values = np.random.default_rng(0).normal(size=len(TIMES))
    observed = pd.DataFrame({"x": values}, TIMES)
    past, future = KnownCovariates(TIMES, observed=observed).matrices(horizon, season=season)
    lag = season
    while lag < horizon:
        lag += season
    whole = np.concatenate([past, future])[:, 0]
    for t in range(len(TIMES) + horizon):
        assert whole[t] == values[max(t - lag, 0)]


def test_later_observations_are_refused():
    times = TIMES[:48]
    actual = pd.DataFrame({"errors": np.arange(72.0)}, TIMES)
    with pytest.raises(SchemaError, match="24 rows lie after"):
        KnownCovariates(times, observed=actual)


@pytest.mark.parametrize("kind", ["lookup", "filled", "position", "shape"])
def test_a_table_of_data_is_no_calendar(kind):
    actual = pd.DataFrame({"errors": np.arange(100.0)}, pd.date_range(TIMES[0], periods=100, freq="1h"))
    calendars = {
        "lookup": lambda t: actual.loc[t].to_numpy(),
        "filled": lambda t: actual.reindex(t).to_numpy(),
        "position": lambda t: np.arange(len(t), dtype=float)[:, None],
        "shape": lambda t: np.zeros(len(t)),
    }
    with pytest.raises(SchemaError, match="calendar"):
        KnownCovariates(TIMES, calendars[kind]).matrices(24, season=24)


def test_irregular_times_are_refused():
    with pytest.raises(SchemaError, match="regular"):
        KnownCovariates(TIMES[[0, 1, 3]], days_off())


@pytest.mark.parametrize(("period", "n_pairs"), [(24, 4), (288, 10), (7, 9), (2, 3), (1, 4)])
def test_harmonics_are_orthogonal_and_below_half_the_rate(period, n_pairs):
    waves = fourier(np.arange(period * 3), period, n_pairs)
    assert waves.shape[1] == 2 * sum(k < period / 2 for k in range(1, n_pairs + 1))
    np.testing.assert_allclose(waves.T @ waves, 1.5 * period * np.eye(waves.shape[1]), atol=1e-9)
