"""Day-ahead models: only the past counts, exact recovery without noise, conformal repair and the rolling origin."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import TooShortError
from support.forecasting import LEVELS, Forecast, auto_ets, backtest, conformalize, mase, mstl, seasonal_naive

MODELS = [seasonal_naive, auto_ets, mstl]
SEASON = 24


def hourly(days, noise=0.1, seed=1):
    n = 24 * days
    index = pd.date_range("2026-01-05", periods=n, freq="1h", tz="UTC")
    level = 1000 * np.exp(0.5 * np.cos(2 * np.pi * np.arange(n) / 24))
    return pd.Series(level * np.exp(noise * np.random.default_rng(seed).normal(size=n)), index=index, name="requests")


def forecast_of(model, past, seed=3, horizon=24):
    return model(past, horizon=horizon, season=SEASON, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("model", MODELS)
def test_only_the_past_counts(model):
    demand = hourly(18)
    shocked = demand.copy()
    shocked.iloc[15 * 24 :] = 9e9
    before = demand.copy()
    one, two = (forecast_of(model, d.iloc[: 15 * 24]) for d in (demand, shocked))
    np.testing.assert_array_equal(one.quantiles, two.quantiles)
    np.testing.assert_array_equal(one.paths, two.paths)
    pd.testing.assert_series_equal(demand, before)
    assert one.issued_at == demand.index[15 * 24 - 1] and one.step_seconds == 3600
    assert one.timestamps[0] == demand.index[15 * 24] and one.quantiles.shape == (1, 24, len(LEVELS))
    changed = demand.iloc[: 15 * 24].copy()
    changed.iloc[-24:] *= 1.5
    assert (forecast_of(model, changed).quantiles != one.quantiles).any()


@pytest.mark.parametrize(("model", "tolerance"), [(seasonal_naive, 1e-9), (mstl, 0.01), (auto_ets, 0.05)])
def test_a_series_without_noise_is_recovered(model, tolerance):
    demand = hourly(16, noise=0.0)
    forecast = forecast_of(model, demand.iloc[: 15 * 24])
    np.testing.assert_allclose(forecast.quantile(0.5)[0], demand.iloc[15 * 24 :], rtol=tolerance)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1e5), min_size=2 * 5 + 4, max_size=40), st.integers(1, 4))
def test_seasonal_naive_by_loop(values, horizon):
    index = pd.date_range("2026-01-05", periods=len(values), freq="1h", tz="UTC")
    forecast = seasonal_naive(
        pd.Series(values, index=index, name="requests"), horizon=horizon, season=5, rng=np.random.default_rng(0)
    )
    logs = [np.log1p(v) for v in values]
    paths = []
    for origin in range(5, len(values) - horizon + 1):
        paths.append(
            [
                max(0.0, np.expm1(logs[len(values) - 5 + h] + logs[origin + h] - logs[origin + h - 5]))
                for h in range(horizon)
            ]
        )
    got = forecast.paths[0]
    assert got.shape == np.shape(paths)
    for h in range(horizon):
        np.testing.assert_allclose(np.sort(got[:, h]), np.sort(np.array(paths)[:, h]), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(forecast.quantiles[0], np.quantile(paths, LEVELS, axis=0).T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_too_short(model):
    with pytest.raises(TooShortError, match="at least 72 are needed"):
        forecast_of(model, hourly(3).iloc[:-1])


@pytest.mark.parametrize("model", MODELS)
def test_zeros_stay_finite_and_not_negative(model):
    demand = hourly(10)
    demand.iloc[::5] = 0.0
    forecast = forecast_of(model, demand)
    assert (forecast.quantiles >= 0).all() and (forecast.paths >= 0).all()


def normal_forecast(centre, spread, rng, horizon=24):
    at = pd.Timestamp("2026-01-01", tz="UTC")
    draws = rng.normal(centre, spread, (1, 400, horizon))
    return Forecast.from_paths(draws, issued_at=at, step_seconds=3600, unit="requests", model="m")


@pytest.mark.parametrize(("centre", "spread"), [(100.0, 10.0), (85.0, 10.0), (100.0, 3.0), (110.0, 2.0), (100.0, 40.0)])
def test_conformal_repair_reaches_its_coverage(centre, spread):
    rng = np.random.default_rng(4)
    past = [(normal_forecast(centre, spread, rng), rng.normal(100, 10, (1, 24))) for _ in range(60)]
    mended = conformalize(normal_forecast(centre, spread, rng), past, rng=rng)
    seen = rng.normal(100, 10, (20_000, 24))
    for position, level in enumerate(LEVELS):
        assert (seen <= mended.quantiles[0, :, position]).mean() == pytest.approx(level, abs=0.035)
    assert mended.model == "m, conformal" and (np.diff(mended.quantiles, axis=2) >= 0).all()


def test_conformal_quantiles_stay_at_or_above_zero_and_keep_the_ranks():
    rng = np.random.default_rng(4)
    past = [(normal_forecast(5.0, 1.0, rng), np.zeros((1, 24))) for _ in range(5)]
    forecast = normal_forecast(3.0, 1.0, rng)
    mended = conformalize(forecast, past, rng=rng)
    assert (mended.quantiles >= 0).all() and (mended.paths >= 0).all()
    wide = conformalize(
        forecast, [(normal_forecast(100, 10, rng), rng.normal(100, 10, (1, 24))) for _ in range(20)], rng=rng
    )
    order = np.argsort(forecast.paths[0, :, 0])
    assert (np.diff(wide.paths[0, order, 0]) >= 0).all()


def test_conformal_needs_points():
    rng = np.random.default_rng(4)
    with pytest.raises(TooShortError, match="10 past points"):
        conformalize(
            normal_forecast(1.0, 1.0, rng, 10), [(normal_forecast(1.0, 1.0, rng, 10), np.zeros((1, 10)))], rng=rng
        )


def test_backtest_windows_do_not_overlap_and_failures_are_counted():
    demand = hourly(20)
    seen_pasts = []

    def watcher(past, *, horizon, season, rng):
        seen_pasts.append(past)
        return seasonal_naive(past, horizon=horizon, season=season, rng=rng)

    def broken(past, *, horizon, season, rng):
        if len(past) >= 15 * 24:
            raise ValueError("no convergence")
        return watcher(past, horizon=horizon, season=season, rng=rng)

    result = backtest(
        demand,
        {"base": watcher, "broken": broken},
        horizon=12,
        season=24,
        n_windows=6,
        n_calibration=4,
        rng=np.random.default_rng(0),
    )
    cuts = [20 * 24 - 10 * 12 + 12 * w for w in range(10)]
    assert [len(p) for p in seen_pasts if len(p) >= 15 * 24] == [c for c in cuts if c >= 15 * 24]
    for past in seen_pasts:
        pd.testing.assert_series_equal(past, demand.iloc[: len(past)])
    assert result.fallbacks == {"base": 0, "broken": sum(c >= 15 * 24 for c in cuts)}
    assert list(result.forecasts) == ["base", "base, conformal", "broken", "broken, conformal"]
    assert all(len(f) == 6 for f in result.forecasts.values())
    covered = [t for f in result.forecasts["base"] for t in f.timestamps]
    assert covered == list(demand.index[-72:]) and len(set(covered)) == 72
    np.testing.assert_array_equal(result.observed.ravel(), demand.iloc[-72:])
    row = result.scores.query("model == 'base' and window == 2").iloc[0]
    median = result.forecasts["base"][2].quantile(0.5)[0]
    assert row["mase"] == pytest.approx(mase(result.observed[2], median, demand.iloc[: -72 + 24].to_numpy(), 24))
    summary = result.summary()
    assert summary.loc["base", "rel_sql"] == 1 and summary.loc["broken", "fallbacks"] == result.fallbacks["broken"]


def test_backtest_does_not_see_its_window():
    demand = hourly(14)
    shocked = demand.copy()
    shocked.iloc[-24:] *= 5
    models = {"naive": seasonal_naive}
    one, two = (
        backtest(d, models, horizon=24, season=24, n_windows=3, n_calibration=2, rng=np.random.default_rng(1))
        for d in (demand, shocked)
    )
    for label in one.forecasts:
        for a, b in zip(one.forecasts[label], two.forecasts[label], strict=True):
            np.testing.assert_array_equal(a.quantiles, b.quantiles)
    assert (one.scores["mase"].to_numpy()[-2:] != two.scores["mase"].to_numpy()[-2:]).all()


def test_backtest_lets_other_errors_through():
    def buggy(past, **_):
        raise KeyError("a bug is not a fallback")

    with pytest.raises(KeyError):
        backtest(hourly(10), {"buggy": buggy}, horizon=24, season=24, n_windows=1, rng=np.random.default_rng(0))


def test_backtest_too_short():
    with pytest.raises(TooShortError, match="at least 216"):
        backtest(hourly(8), {"n": seasonal_naive}, horizon=24, season=24, n_windows=6, rng=np.random.default_rng(0))
