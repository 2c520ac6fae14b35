"""Recalibrated quantiles: the update by hand, the law of the shares, wrong spreads mended, no leak, what is refused."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from support.errors import SchemaError, TooShortError
from support.forecasting.recalibration import recalibrate, roll_calibrated
from support.forecasting.rolling_quantiles import TICK_LEVELS, RollingQuantiles
from support.forecasting.short_term import roll_daily


def issued(n, spread, *, horizon=1, lag=0, levels=TICK_LEVELS, middle=100.0):
    times = pd.date_range("2026-01-01", periods=n, freq="60s", tz="UTC")
    row = middle + spread * norm.ppf(levels)
    quantiles = np.tile(row, (n, horizon, 1))
    return RollingQuantiles(times, levels, quantiles, np.full((n, horizon), middle), "m", lag)


def series(values):
    return pd.Series(values, index=pd.date_range("2026-01-01", periods=len(values), freq="60s", tz="UTC"))


@pytest.mark.parametrize("lag", [0, 2])
def test_equal_to_the_update_written_out(lag):
    levels, rate = np.array([0.1, 0.4, 0.5, 0.8, 0.95]), 0.3
    forecast = issued(40, 10.0, horizon=3, lag=lag, levels=levels)
    demand = series(np.random.default_rng(lag).normal(103, 25, 40))
    widths = {(tail, h): 0.0 for tail in ("up", "down") for h in range(3)}
    wanted = np.empty((40, 3, 5))
    for i in range(40):
        t = i - 1 - lag
        for h in range(3):
            if t - h >= 0:
                said, came = wanted[t - h, h], demand.iloc[t]
                up = sum(came > said[k] for k in (3, 4)) / 2 - (0.2 + 0.05) / 2
                down = sum(came < said[k] for k in (0, 1)) / 2 - (0.1 + 0.4) / 2
                for tail, miss in (("up", up), ("down", down)):
                    widths[tail, h] = min(max(widths[tail, h] + rate * miss, -math.log(8)), math.log(8))
        for h in range(3):
            for k in range(5):
                tail = "up" if k > 2 else "down"
                away = forecast.quantiles[i, h, k] - 100.0
                wanted[i, h, k] = max(100.0 + (math.exp(widths[tail, h]) * away if k != 2 else 0.0), 0.0)
    np.testing.assert_allclose(recalibrate(forecast, demand, rate=rate).quantiles, wanted, rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), wild=st.floats(0.0, 60.0), drift=st.floats(-0.1, 0.1))
def test_the_law_of_the_shares(seed, wild, drift):
    """Whatever comes, the seen share of misses of a tail is the expected one up to |log width| / (rate n)."""
    n, rate = 600, 0.05
    rng = np.random.default_rng(seed)
    demand = series(100.0 + drift * np.arange(n) + rng.normal(0, wild, n))
    out = recalibrate(issued(n, 10.0), demand, rate=rate)
    levels = out.levels
    for tail, missed in (
        (levels > 0.5, demand.to_numpy()[:, None] > out.quantiles[:, 0, levels > 0.5]),
        (levels < 0.5, demand.to_numpy()[:, None] < out.quantiles[:, 0, levels < 0.5]),
    ):
        wanted = np.minimum(levels[tail], 1 - levels[tail]).mean()
        width = (out.quantiles[-1, 0, tail] - 100.0) / (10.0 * norm.ppf(levels[tail]))
        if not 0.126 < width[0] < 7.9 or (out.quantiles == 0).any():
            continue  # at a bound of the width the law ends
        held = np.abs(np.log((out.quantiles[:, 0, tail][:, 0] - 100) / (10.0 * norm.ppf(levels[tail][0])))).max()
        if held < math.log(7.9):
            assert abs(missed[:-1].mean() - wanted) <= abs(math.log(width[0])) / (rate * (n - 1)) + 1e-9


@pytest.mark.parametrize(("truth", "horizon", "lag"), [(20.0, 1, 0), (20.0, 4, 2), (5.0, 2, 1)])
def test_a_wrong_spread_is_found(truth, horizon, lag):
    """Normal demand, quantiles of half or twice its spread: the widths settle at truth / 10, coverage at the level."""
    n = 30_000
    demand = series(np.random.default_rng(7).normal(100.0, truth, n).clip(0))
    out = recalibrate(issued(n, 10.0, horizon=horizon, lag=lag), demand)
    late = slice(n // 3, n - horizon)
    for level in (0.05, 0.95):
        at = int(np.flatnonzero(out.levels == level)[0])
        for h in range(horizon):
            width = np.abs(out.quantiles[late, h, at] - 100.0).mean() / (10 * norm.ppf(0.95))
            assert width == pytest.approx(truth / 10, rel=0.1)
            below = demand.to_numpy()[n // 3 + h : n - horizon + h] <= out.quantiles[late, h, at]
            assert below.mean() == pytest.approx(level, abs=0.012)


def test_what_was_right_stays_right():
    n = 20_000
    demand = series(np.random.default_rng(3).normal(100.0, 10.0, n))
    out = recalibrate(issued(n, 10.0), demand)
    ratio = (out.quantiles[n // 4 :, 0, -1] - 100.0) / (10 * norm.ppf(out.levels[-1]))
    assert 0.97 < ratio.mean() < 1.03 and ratio.min() > 0.8 and ratio.max() < 1.25
    np.testing.assert_array_equal(out.mean, issued(n, 10.0).mean)
    assert out.model == "m, recalibrated" and (np.diff(out.quantiles, axis=2) >= 0).all()


@pytest.mark.parametrize("lag", [0, 3])
@settings(deadline=None, max_examples=25)
@given(cut=st.integers(0, 99))
def test_no_leak(lag, cut):
    calm = series(np.random.default_rng(1).normal(100.0, 30.0, 100))
    shocked = calm.copy()
    shocked.iloc[cut:] = 1e6
    one, two = (recalibrate(issued(100, 10.0, horizon=4, lag=lag), d, rate=0.2) for d in (calm, shocked))
    same = min(cut + lag + 1, 100)
    np.testing.assert_array_equal(one.quantiles[:same], two.quantiles[:same])
    if same < 100:
        assert (one.quantiles[same:] != two.quantiles[same:]).any()


def test_more_demand_than_rows_is_fine_and_less_is_refused():
    demand = series(np.full(50, 100.0))
    forecast = issued(50, 10.0)
    longer = pd.concat([series(np.full(10, 1.0)).set_axis(demand.index[:10] - pd.Timedelta("1h")), demand])
    np.testing.assert_array_equal(recalibrate(forecast, longer).quantiles, recalibrate(forecast, demand).quantiles)
    with pytest.raises(SchemaError, match="1 of the 50 timestamps"):
        recalibrate(forecast, demand.drop(demand.index[7]))
    for rate in (0.0, -1.0, math.nan):
        with pytest.raises(SchemaError, match="rate"):
            recalibrate(forecast, demand, rate=rate)


def days(n_day, seed=0, shift=1.0, at=0):
    """Ten-minute demand with a daily season; from day `at` on it is multiplied by `shift`."""
    rng = np.random.default_rng(seed)
    index = pd.date_range("2026-03-02", periods=144 * n_day, freq="600s", tz="UTC")
    t = np.arange(len(index))
    values = (100 + 40 * np.sin(2 * np.pi * t / 144)) * np.exp(rng.normal(0, 0.1, len(t)))
    return pd.Series(np.where(t >= 144 * at, shift, 1.0) * values, index=index, name="requests")


def test_calibrated_rolls_are_the_joined_rolls_recalibrated():
    demand = days(20)
    start, warm = demand.index[15 * 144], demand.index[15 * 144 - 5 * 144]  # a third of fifteen days
    options = {"train_days": 8.0, "horizon_ticks": 4, "lag_ticks": 1}
    whole = roll_daily(demand, warm, **options)  # the same fits, since warm and start are a whole number of days apart
    wanted = recalibrate(whole, demand).rows(5 * 144)
    got = roll_calibrated(demand, start, **options)
    np.testing.assert_array_equal(got.quantiles, wanted.quantiles)
    np.testing.assert_array_equal(got.mean, wanted.mean)
    assert got.timestamps.equals(wanted.timestamps)


def test_the_future_of_a_calibrated_roll_changes_nothing():
    demand = days(20)
    start, cut = demand.index[15 * 144], 17 * 144 + 30
    later = demand.copy()
    later.iloc[cut:] *= 5
    rows = cut - 15 * 144 + 1
    one, two = (roll_calibrated(d, start, train_days=8, horizon_ticks=4).quantiles[:rows] for d in (demand, later))
    np.testing.assert_array_equal(one, two)


def test_a_past_too_short_to_warm_up_begins_at_the_start():
    demand = days(20).iloc[:150]
    start = demand.index[100]
    rolled = roll_daily(demand, start, train_days=8, horizon_ticks=3)
    with pytest.raises(TooShortError):
        roll_daily(demand.iloc[:100], demand.index[100 - 33], train_days=8, horizon_ticks=3)
    np.testing.assert_array_equal(
        roll_calibrated(demand, start, train_days=8, horizon_ticks=3).quantiles, recalibrate(rolled, demand).quantiles
    )
