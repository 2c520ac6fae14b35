"""The short-term model: no leak, honest coverage, every cadence, and what it refuses."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError, TooShortError
from support.forecasting import RollingQuantiles, fit_short_term, roll_daily
from support.telemetry import ar1


def series(days, step=600, seed=1, sd=0.2, memory_minutes=60.0, level=2000.0):
    n = int(days * 86_400 / step)
    index = pd.date_range("2026-01-05", periods=n, freq=f"{step}s", tz="UTC")
    rng = np.random.default_rng(seed)
    hours = np.arange(n) * step / 3600
    logs = np.log(level) + 0.5 * np.cos(2 * np.pi * hours / 24) + ar1(n, memory_minutes * 60 / step, sd, rng=rng)
    return pd.Series(rng.poisson(np.exp(logs)).astype(float), index=index, name="requests")


def same(one, two, rows):
    np.testing.assert_array_equal(one.quantiles[:rows], two.quantiles[:rows])
    np.testing.assert_array_equal(one.mean[:rows], two.mean[:rows])


CALM = series(9)
START = CALM.index[6 * 144]


@pytest.mark.parametrize("lag", [0, 2])
@settings(deadline=None, max_examples=30)
@given(cut=st.integers(0, 3 * 144 - 1), seed=st.integers(0, 1000))
def test_leak_of_a_fitted_model(lag, cut, seed):
    model = fit_short_term(CALM[:START].iloc[:-1], horizon_ticks=4, lag_ticks=lag)
    shocked = CALM.copy()
    shocked.iloc[6 * 144 + cut :] = np.random.default_rng(seed).uniform(0, 1e5, 3 * 144 - cut)
    one, two = model.roll(CALM, START), model.roll(shocked, START)
    same(one, two, cut + lag + 1)  # row i knows ticks up to i - 1 - lag
    if cut + lag + 1 < 3 * 144:
        assert (one.mean[cut + lag + 1] != two.mean[cut + lag + 1]).any()


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("cut", [0, 1, 70, 142, 143, 144, 145, 286, 287, 288, 400])
def test_leak_of_the_daily_refit(lag, cut):
    shocked = CALM.copy()
    shocked.iloc[6 * 144 + cut :] = np.random.default_rng(cut).uniform(0, 1e5, 3 * 144 - cut)
    one, two = (roll_daily(s, START, train_days=5, horizon_ticks=3, lag_ticks=lag) for s in (CALM, shocked))
    same(one, two, cut + lag + 1)


def test_a_horizon_beyond_a_day_does_not_see_the_future():
    hourly = series(20, step=3600)
    model = fit_short_term(hourly.iloc[:-48], horizon_ticks=30)
    shocked = hourly.copy()
    shocked.iloc[-48:] *= 3
    same(model.roll(hourly, hourly.index[-48]), model.roll(shocked, hourly.index[-48]), 1)
    assert model.forecast(hourly, n_draws=10, rng=np.random.default_rng(1)).paths.shape == (1, 10, 30)


def test_daily_refit_is_the_model_fitted_on_the_days_before():
    rolled = roll_daily(CALM, START, train_days=5, horizon_ticks=3)
    assert (rolled.timestamps == CALM.index[6 * 144 :]).all()
    for day in range(3):
        first = (6 + day) * 144
        model = fit_short_term(CALM.iloc[first - 5 * 144 : first], horizon_ticks=3)
        part = model.roll(CALM.iloc[first - 5 * 144 : first + 144], CALM.index[first])
        np.testing.assert_allclose(rolled.quantiles[day * 144 : (day + 1) * 144], part.quantiles, rtol=1e-9)


@pytest.mark.parametrize(("step", "days", "memory"), [(60, 10, 30.0), (300, 28, 60.0), (300, 28, 600.0)])
def test_coverage_on_an_ar_series(step, days, memory):
    demand = series(days, step=step, memory_minutes=memory, sd=0.15, seed=7)
    start = demand.index[int(len(demand) * 0.7)]
    horizon = 5
    rolled = fit_short_term(demand[demand.index < start], horizon_ticks=horizon).roll(demand, start)
    seen = demand[start:].to_numpy()
    for h in (0, horizon - 1):
        part, there = rolled.quantiles[: len(seen) - h, h], seen[h:]
        for level in (0.05, 0.5, 0.95):
            below = there <= part[:, int(np.flatnonzero(rolled.levels == level)[0])]
            blocks = np.array(
                [b.mean() for b in np.array_split(below, 30)]
            )  # blocks carry the dependence of neighbours
            assert below.mean() == pytest.approx(level, abs=4 * blocks.std() / np.sqrt(30) + 0.03)


def test_it_beats_the_last_value_and_the_mean_is_unbiased():
    demand = series(28, step=300, sd=0.15, seed=3)
    start = demand.index[20 * 288]
    rolled = roll_daily(demand, start, train_days=14, horizon_ticks=6)
    seen = demand.to_numpy()[20 * 288 :]
    ahead, last = seen[5:], demand.to_numpy()[20 * 288 - 1 : -6]
    assert np.abs(rolled.quantiles[: len(ahead), 5, 5] - ahead).mean() < np.abs(last - ahead).mean()
    assert rolled.mean[: len(ahead), 5].mean() == pytest.approx(ahead.mean(), rel=0.03)


@pytest.mark.parametrize(("step", "days"), [(10, 1.5), (60, 6), (300, 12), (3600, 40)])
def test_cadences(step, days):
    demand = series(days, step=step)
    model = fit_short_term(demand, horizon_ticks=3)
    assert model.step_seconds == step and model.uses_yesterday == (days >= 4)
    assert bool(model.notes) == (days < 4)
    forecast = model.forecast(demand, n_draws=400, rng=np.random.default_rng(1))
    assert forecast.issued_at == demand.index[-1] and forecast.step_seconds == step
    assert forecast.timestamps[0] == demand.index[-1] + pd.Timedelta(seconds=step)
    assert 0.3 * demand.iloc[-1] < forecast.quantile(0.5)[0, 0] < 3 * demand.iloc[-1]
    rolled = model.roll(demand, demand.index[-20])
    assert rolled.quantiles.shape == (20, 3, len(rolled.levels)) and rolled.mean.shape == (20, 3)
    assert (
        np.isfinite(rolled.quantiles).all()
        and (np.diff(rolled.quantiles, axis=2) >= 0).all()
        and (rolled.quantiles >= 0).all()
    )


def test_forecast_and_roll_agree():
    demand = series(9)
    model = fit_short_term(demand.iloc[:-1], horizon_ticks=3)
    rolled = model.roll(demand, demand.index[-1])
    forecast = model.forecast(demand.iloc[:-1], n_draws=40_000, rng=np.random.default_rng(1))
    middle = rolled.quantiles[0, :, 1:-2]  # 0.025 ... 0.975 without the outermost
    levels = rolled.levels[1:-2]
    for level in (0.1, 0.5, 0.9):
        wanted = middle[:, int(np.flatnonzero(levels == level)[0])]
        np.testing.assert_allclose(forecast.quantile(level)[0], wanted, rtol=0.02)


@pytest.mark.parametrize("days", [1, 6])
def test_zeros(days):
    index = pd.date_range("2026-01-05", periods=144 * days, freq="600s", tz="UTC")
    quiet = pd.Series(0.0, index=index, name="requests")
    model = fit_short_term(quiet, horizon_ticks=3)
    np.testing.assert_allclose(model.roll(quiet, index[-10]).quantiles, 0.0, atol=1e-9)
    np.testing.assert_allclose(model.forecast(quiet, n_draws=5, rng=np.random.default_rng(1)).paths, 0.0, atol=1e-9)
    quiet.iloc[::7] = 50.0
    assert np.isfinite(fit_short_term(quiet, horizon_ticks=3).roll(quiet, index[-10]).quantiles).all()


def test_too_short():
    with pytest.raises(TooShortError, match="at least .* needed"):
        fit_short_term(CALM.iloc[:50], horizon_ticks=3)
    model = fit_short_term(CALM, horizon_ticks=3)
    with pytest.raises(TooShortError, match="before the first forecast"):
        model.roll(CALM, CALM.index[5])
    with pytest.raises(TooShortError):
        model.roll(CALM, CALM.index[-1] + pd.Timedelta("1h"))


def test_the_number_of_ticks_the_message_names_is_enough():
    short = series(3, step=600)
    with pytest.raises(TooShortError) as caught:
        fit_short_term(short.iloc[:20], horizon_ticks=3)
    need = int(str(caught.value).split("at least ")[1].split()[0])
    fit_short_term(short.iloc[:need], horizon_ticks=3)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 0.9))
def test_at_is_linear_between_levels(level):
    levels = np.array([0.1, 0.4, 0.9])
    values = np.random.default_rng(1).gamma(2, 10, (4, 2, 3)).cumsum(axis=2)
    rolled = RollingQuantiles(CALM.index[:4], levels, values, values.mean(axis=2), "m", 0)
    wanted = [[np.interp(level, levels, q) for q in row] for row in values]
    np.testing.assert_allclose(rolled.at(level), wanted, rtol=1e-9)
    for outside in (0.05, 0.95):
        with pytest.raises(SchemaError, match="outside"):
            rolled.at(outside)


def test_the_unit_of_a_small_demand_does_not_matter():
    """Megabits or kilobits: the forecast is the same, in its own unit; below 20 a tick the floor is part of the mean."""
    index = pd.date_range("2026-01-01", periods=7 * 288, freq="300s", tz="UTC")
    rng = np.random.default_rng(5)
    small = pd.Series(
        8 + 4 * np.sin(2 * np.pi * np.arange(len(index)) / 288) + rng.gamma(2.0, 1.0, len(index)), index=index
    )
    start, units = index[-288], 1e-3
    rolled = [roll_daily(d, start, train_days=5, horizon_ticks=4) for d in (small, small * units)]
    np.testing.assert_allclose(rolled[1].quantiles, units * rolled[0].quantiles, rtol=1e-9)
    np.testing.assert_allclose(rolled[1].mean, units * rolled[0].mean, rtol=1e-9)


def test_a_long_horizon_needs_ticks_to_fit_before_the_calibration_slice():
    """A horizon that eats the fitted slice is refused with the number of ticks that is enough, and that many work."""
    index = pd.date_range("2026-01-01", periods=400, freq="10s", tz="UTC")
    demand = pd.Series(np.random.default_rng(6).poisson(30.0, len(index)).astype(float), index=index, name="requests")
    with pytest.raises(TooShortError) as error:
        fit_short_term(demand.iloc[:132], horizon_ticks=50)
    enough = int(re.search(r"at least (\d+) are needed", str(error.value))[1])
    assert fit_short_term(demand.iloc[:enough], horizon_ticks=50).horizon_ticks == 50


def test_a_forecast_follows_a_demand_that_has_outgrown_the_history():
    """Demand of ten times the fitted past: the cap moves with what each row knows, and never looks ahead."""
    calm = series(6, seed=9)
    grown = calm.copy()
    grown.iloc[-100:] *= 10.0
    start = grown.index[-144]
    rolled = fit_short_term(calm.iloc[:-144], horizon_ticks=3).roll(grown, start)
    middle = rolled.at(0.5)[:, 0]
    assert (middle[-80:] > 0.5 * grown.iloc[-80:].to_numpy()).mean() > 0.95
    assert rolled.quantiles[:44].max() <= 2 * calm.max()


def weekly(days=40, step=1800, seed=4):
    """Half the demand on Saturdays and Sundays from 8 to 20 h, and none of that on other days."""
    demand = series(days, step=step, seed=seed, sd=0.05)
    office = (demand.index.dayofweek >= 5) & (demand.index.hour >= 8) & (demand.index.hour < 20)
    return demand.where(~office, demand / 2)


@pytest.mark.parametrize("weeks", [1, 2])
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("cut", [0, 1, 47, 48, 49, 336, 400])
def test_no_leak_through_the_weeks(weeks, lag, cut):
    demand = weekly()
    start = demand.index[30 * 48]
    shocked = demand.copy()
    shocked.iloc[30 * 48 + cut :] = np.random.default_rng(cut).uniform(0, 1e5, 10 * 48 - cut)
    options = {"train_days": 28, "horizon_ticks": 3, "lag_ticks": lag, "weeks": weeks}
    one, two = (roll_daily(s, start, **options) for s in (demand, shocked))
    same(one, two, cut + lag + 1)
    assert (one.mean[cut + lag + 1] != two.mean[cut + lag + 1]).any()


def test_weeks_see_saturday_morning_coming():
    """At 8 h on a Saturday demand halves: the day before says nothing of it, the week before all."""
    demand = weekly()
    start = demand.index[30 * 48]
    at = (demand[start:].index.dayofweek == 5) & (demand[start:].index.hour == 8) & (demand[start:].index.minute == 0)
    came = demand[start:].to_numpy()[at]
    errors = {}
    for weeks in (0, 1, 3):
        rolled = roll_daily(demand, start, train_days=30, horizon_ticks=2, weeks=weeks)
        errors[weeks] = np.abs(rolled.at(0.5)[at, 0] / came - 1).mean()
    assert errors[0] > 0.5 and max(errors[1], errors[3]) < 0.3


def test_the_median_of_three_weeks_forgives_one():
    """A week before the judged Saturday there was one without its fall: it misleads alone, and not among three."""
    demand, clean = weekly(97), series(97, step=1800, seed=4, sd=0.05)
    demand.iloc[89 * 48 : 90 * 48] = clean.iloc[89 * 48 : 90 * 48]
    start = demand.index[96 * 48]  # a Saturday: the series begins on a Monday
    came = demand[start:].to_numpy()[16]  # 8 h
    one, three = (
        roll_daily(demand, start, train_days=90, horizon_ticks=2, weeks=weeks).at(0.5)[16, 0] / came - 1
        for weeks in (1, 3)
    )
    assert start.dayofweek == 5 and demand.index[89 * 48].dayofweek == 5
    assert one > 0.5 and abs(three) < 0.3


@pytest.mark.parametrize(("days", "weeks", "match"), [(9, -1, "weeks is -1"), (3, 1, "shorter than four days")])
def test_weeks_that_cannot_be_are_refused(days, weeks, match):
    with pytest.raises(SchemaError, match=match):
        fit_short_term(series(days), horizon_ticks=3, weeks=weeks)


def test_weeks_longer_than_the_history_say_how_much_is_needed():
    demand = series(30)
    with pytest.raises(TooShortError) as caught:
        fit_short_term(demand.iloc[: 10 * 144], horizon_ticks=3, weeks=2)
    need = int(str(caught.value).split("at least ")[1].split()[0])
    assert 14 * 144 < need < 15 * 144
    fit_short_term(demand.iloc[:need], horizon_ticks=3, weeks=2)


@pytest.mark.parametrize(("n_day", "weeks"), [(20, 0), (21, 1), (41, 1), (42, 3)])
def test_the_history_decides_how_many_weeks_are_looked_at(n_day, weeks):
    demand = series(n_day)
    chosen, wanted = (fit_short_term(demand, horizon_ticks=3, weeks=w) for w in (None, weeks))
    np.testing.assert_array_equal(chosen.coefficients, wanted.coefficients)
    assert chosen.seasons == wanted.seasons and len(chosen.seasons) == 1 + (weeks > 0)
