"""Prophet: its own central forecast, holidays, a silent page, and the global random state as it was."""

from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from prophet import Prophet

from support.errors import SchemaError, TooShortError
from support.forecasting import prophet_model
from support.forecasting.covariates import KnownCovariates, days_off
from support.forecasting.prophet_model import prophet

LEVELS = np.array([0.05, 0.5, 0.95])
TIMES = pd.date_range("2025-11-30", periods=24 * 25, freq="1h", tz="UTC")  # ends on 24 December at 23:00


def demand(off_factor=0.5, country="US"):
    rng = np.random.default_rng(0)
    day = 100 + 20 * np.sin(np.arange(len(TIMES)) * 2 * np.pi / 24)
    return day * np.where(days_off(country)(TIMES)[:, 0] > 0, off_factor, 1.0) + rng.normal(0, 3, len(TIMES))


def test_the_median_is_prophets_own_forecast():
    y = demand(1.0)
    found = prophet(y, 24, 24, LEVELS, np.random.default_rng(0), known=KnownCovariates(TIMES))
    model = Prophet(daily_seasonality=10, weekly_seasonality=3, yearly_seasonality=False, uncertainty_samples=0)
    model.fit(pd.DataFrame({"ds": TIMES.tz_localize(None), "y": y}))
    after = pd.DataFrame({"ds": TIMES[-1].tz_localize(None) + pd.Timedelta(hours=1) * np.arange(1, 25)})
    wanted = model.predict(after)["yhat"].to_numpy()
    sampling = 1.2533 * 3 / np.sqrt(500)  # standard error of a median of 500 normal draws of deviation 3
    assert np.abs(found[:, 1] - wanted).max() < 5 * sampling


def test_ninety_percent_intervals_hold_what_the_model_makes():
    y = demand(1.0)
    found = prophet(y[:-72], 72, 24, LEVELS, np.random.default_rng(0), known=KnownCovariates(TIMES[:-72]))
    inside = ((y[-72:] >= found[:, 0]) & (y[-72:] <= found[:, 2])).mean()
    assert 0.78 <= inside <= 0.99  # 0.90, four deviations of 72 draws below; Prophet's trend may add width


def test_holidays_of_a_country():
    """Thanksgiving is in the past, 25 December is forecast: only the model with holidays knows it."""
    times = pd.date_range("2025-11-03", periods=24 * 52, freq="1h", tz="UTC")
    off = pd.Series(times.tz_localize(None)).dt.normalize().isin(pd.to_datetime(["2025-11-11", "2025-11-27"]))
    y = np.where(off, 50.0, 100.0) + np.random.default_rng(0).normal(0, 2, len(times))
    known = KnownCovariates(times)
    plain, aware = (
        prophet(y, 24, 24, LEVELS, np.random.default_rng(0), known=known, country=c)[:, 1].mean() for c in ("", "US")
    )
    assert plain > 85 and aware < 65


def test_the_global_random_state_and_the_page_stay_as_they_were(capfd, caplog):
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (prophet(demand(), 5, 24, LEVELS, np.random.default_rng(s)) for s in (1, 2))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert (one != two).any()
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == "" and not caplog.records


def test_a_constant_series_and_one_that_is_too_short():
    flat = prophet(np.full(48, 5.0), 3, 24, LEVELS, np.random.default_rng(0))
    np.testing.assert_allclose(flat, 5.0, atol=1e-3)
    with pytest.raises(TooShortError):
        prophet(np.ones(1), 3, 24, LEVELS, np.random.default_rng(0))


def test_missing_values_are_left_out_and_one_outlier_moves_the_median_little():
    """A third of the hours gone, in one gap and at random: the median moves by less than the noise of 3."""
    y, rng = demand(1.0), np.random.default_rng(1)
    gone, spiked = y.copy(), y.copy()
    gone[200:248], gone[rng.choice(len(y), len(y) // 4, replace=False)] = np.nan, np.nan
    spiked[300] *= 5
    whole, holed, moved = (
        prophet(x, 24, 24, LEVELS, np.random.default_rng(0), known=KnownCovariates(TIMES)) for x in (y, gone, spiked)
    )
    assert np.isfinite(holed).all() and np.abs(holed[:, 1] - whole[:, 1]).max() < 3
    assert np.abs(moved[:, 1] - whole[:, 1]).mean() < 3


class Spy(Prophet):
    """Prophet itself, which keeps what it was told."""

    made: ClassVar[list] = []

    def fit(self, frame, **given):
        Spy.made.append(self)
        return super().fit(frame, **given)


@pytest.fixture
def spied(monkeypatch):
    monkeypatch.setattr(prophet_model, "Prophet", Spy)
    monkeypatch.setattr(Spy, "made", [])
    return Spy.made


def test_the_options_reach_prophet(spied):
    fine = pd.date_range("2026-01-05", periods=288 * 3, freq="5min", tz="UTC")
    y = 50 + np.random.default_rng(0).normal(size=len(fine))
    given = {"known": KnownCovariates(fine), "hourly_pairs": 8, "yearly_pairs": 4, "mode": "multiplicative"}
    prophet(y, 3, 288, LEVELS, np.random.default_rng(0), **given, n_draws=20)
    prophet(y, 3, 288, LEVELS, np.random.default_rng(0), known=KnownCovariates(fine), n_draws=20)
    told, default = spied
    assert told.seasonality_mode == "multiplicative" and default.seasonality_mode == "additive"
    kept = {name: (s["period"], s["fourier_order"], s["mode"]) for name, s in told.seasonalities.items()}
    assert kept == {
        "hourly": (pytest.approx(1 / 24), 5, "multiplicative"),  # 12 steps an hour tell 5 pairs apart
        "daily": (1, 10, "multiplicative"), "yearly": (365.25, 4, "multiplicative"),
    }  # fmt: skip
    assert {name: s["mode"] for name, s in default.seasonalities.items()} == {"daily": "additive"}


def test_a_simulated_year_is_recovered():
    """Three years of days, made of a year and a week: half a year ahead only the model with a year knows the season."""
    days = pd.date_range("2023-01-01", periods=3 * 365 + 182, freq="1D", tz="UTC")
    t = np.arange(len(days))
    truth = 100 + 20 * np.sin(2 * np.pi * t / 365.25) + 6 * (days.dayofweek >= 5)
    y = truth + np.random.default_rng(0).normal(0, 2, len(t))
    past, ahead = slice(0, 3 * 365), slice(3 * 365, None)
    errors = []
    for pairs in (3, 0):
        made = prophet(
            y[past], 182, 1, LEVELS, np.random.default_rng(0), known=KnownCovariates(days[past]), yearly_pairs=pairs
        )
        errors.append(np.abs(made[:, 1] - truth[ahead]).mean())
    # the noise of 2 leaves an error well below itself; without a year the sine, 13 in the mean of half of it, is left
    assert errors[0] < 2 and errors[1] > 5


def test_a_weekly_season_of_daily_data_with_dates(spied):
    days = pd.date_range("2025-01-01", periods=60, freq="1D", tz="UTC")
    y = 100 + 30.0 * (days.dayofweek >= 5) + np.random.default_rng(0).normal(size=60)
    made = prophet(y, 14, 1, LEVELS, np.random.default_rng(0), known=KnownCovariates(days))
    after = pd.date_range(days[-1], periods=15, freq="1D")[1:]
    np.testing.assert_allclose(made[:, 1], 100 + 30.0 * (after.dayofweek >= 5), atol=5)
    prophet(y, 14, 1, LEVELS, np.random.default_rng(0))  # no dates: no day of the week to tell
    assert [list(model.seasonalities) for model in spied] == [["weekly"], []]


def test_seasons_that_are_shares_of_the_trend():
    """A swing of half the level, which doubles: added to the trend it would keep its size."""
    n, season = 24 * 28, 24
    t = np.arange(n + 48)
    truth = (100 + 100 * t / n) * (1 + 0.5 * np.sin(2 * np.pi * t / season))
    y = truth[:n] + np.random.default_rng(0).normal(0, 1, n)
    shares, added = (
        np.abs(prophet(y, 48, season, LEVELS, np.random.default_rng(0), mode=mode)[:, 1] - truth[n:]).mean()
        for mode in ("multiplicative", "additive")
    )
    assert shares < 0.5 * added


def test_what_prophet_cannot_take_is_refused():
    for given in ({"mode": "both"}, {"yearly_pairs": -1}, {"hourly_pairs": -1}):
        with pytest.raises(SchemaError, match="modes are additive, multiplicative"):
            prophet(demand(), 5, 24, LEVELS, np.random.default_rng(0), **given)
    with pytest.raises(SchemaError, match="an hour has 1 step;"):
        prophet(demand(), 5, 24, LEVELS, np.random.default_rng(0), hourly_pairs=4)
