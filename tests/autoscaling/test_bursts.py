"""Bursts against traces that hold known ones, Monte Carlo for the mixture, and what may not change."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from support.autoscaling import Environment, Newsvendor, simulate
from support.autoscaling.bursts import BurstModel, fit_bursts, with_bursts
from support.errors import SchemaError
from support.forecasting import RollingQuantiles
from support.telemetry import burst_factor

LEVELS = np.array([0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.995])
NORMAL = np.array([-2.576, -1.645, -0.674, 0.0, 0.674, 1.645, 2.326, 2.576])
DAY = 1440


def rolling(quantiles, *, levels=LEVELS, lag=0):
    quantiles = np.asarray(quantiles, dtype=float)
    index = pd.date_range("2026-01-01", periods=len(quantiles), freq="60s", tz="UTC")
    return RollingQuantiles(index, levels, quantiles, quantiles.mean(axis=2), "drawn", lag)


def steady(n_time, horizon=30, *, centre=100.0, spread=4.0, lag=0):
    return rolling(np.broadcast_to(centre + spread * NORMAL, (n_time, horizon, len(LEVELS))), lag=lag)


def on(forecast, values):
    return pd.Series(np.asarray(values, dtype=float), index=forecast.timestamps, name="requests")


def model_of(per_day=5.0, factors=(1.5, 1.8, 2.5), durations=(10, 20, 40), censored=(False, False, True)):
    return BurstModel(per_day, np.array(factors), np.array(durations), np.array(censored), 0.995, 60.0)


def test_finds_the_bursts_that_are_there():
    rng, forecast = np.random.default_rng(0), steady(3 * DAY)
    work = 100 + 4 * rng.standard_normal(3 * DAY)
    for at, length, factor in ((300, 12, 1.6), (1500, 25, 2.0), (4000, 80, 1.4)):
        work[at : at + length] *= factor
    model = fit_bursts(on(forecast, work), forecast)
    assert model.onsets_per_day == pytest.approx(5 / 3)  # the long one is cut at the horizon: three times
    assert model.durations.tolist() == [12, 25, 30, 30, 20]
    assert model.censored.tolist() == [False, False, True, True, False]
    assert model.factors == pytest.approx([1.6, 2.0, 1.4, 1.4, 1.4], rel=4 * 0.04 / np.sqrt(12))
    assert model.ending_prob == pytest.approx(3 / 117)


def test_normal_noise_holds_hardly_a_burst():
    forecast = steady(20 * DAY, 3)
    model = fit_bursts(on(forecast, 100 + 4 * np.random.default_rng(1).standard_normal(20 * DAY)), forecast)
    expected = 20 * DAY * 5.6e-5  # P(Z > 1.5 x 2.576)
    assert len(model.factors) <= expected + 4 * np.sqrt(expected)


def test_random_onsets_are_estimated_within_their_own_error():
    rng, days = np.random.default_rng(2), 60
    forecast = steady(days * DAY, 60, spread=1.0)
    work = 100 * burst_factor(days * DAY, 2.0 / DAY, 1.8, 20.0, rng=rng)
    model = fit_bursts(on(forecast, work), forecast)
    assert model.onsets_per_day == pytest.approx(2.0, abs=4 * np.sqrt(2.0 / days))
    assert 1 / model.ending_prob == pytest.approx(20.0, abs=4 * 20.0 / np.sqrt(2 * days))
    assert model.factors.mean() == pytest.approx(1.8, abs=0.2)


def test_without_bursts_only_levels_are_added():
    forecast = steady(DAY)
    model = fit_bursts(on(forecast, np.full(DAY, 100.0)), forecast)
    assert len(model.factors) == model.onsets_per_day == model.ending_prob == 0
    mixed = with_bursts(forecast, model, demand=on(forecast, np.full(DAY, 100.0)))
    assert mixed.levels.tolist() == [*LEVELS, 0.999, 0.9995]
    assert np.array_equal(mixed.quantiles[..., :-2], forecast.quantiles)
    assert np.array_equal(mixed.mean, forecast.mean)
    # An exponential tail: each halving of what lies above adds the same amount.
    step = forecast.quantiles[0, 0, -1] - forecast.quantiles[0, 0, -2]
    assert mixed.quantiles[0, 0, -1] - mixed.quantiles[0, 0, -2] == pytest.approx(step)
    assert mixed.at(0.9992)[0, 0] > forecast.at(0.995)[0, 0]


def mixture_by_root(levels, parts, weights, u):
    """The quantile by bisection of the distribution function, written with numpy alone."""

    def cdf(x):
        return sum(w * np.interp(x, q, levels, left=0.0, right=1.0) for w, q in zip(weights, parts, strict=True)) - u

    low, high = min(q[0] for q in parts) - 1, max(q[-1] for q in parts) + 1
    return optimize.brentq(cdf, low, high, xtol=1e-11)


def extended(q):
    tail = q[-1] + (q[-1] - q[-2]) / np.log(2) * np.log(0.005 / np.array([0.001, 0.0005]))
    return np.append(q, tail)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), per_day=st.floats(0.1, 300.0))
def test_mixture_quantiles_invert_the_distribution(seed, per_day):
    rng = np.random.default_rng(seed)
    forecast = rolling(np.sort(rng.uniform(10, 100, (1, 3, len(LEVELS))), axis=-1))
    model = model_of(per_day, factors=rng.uniform(1.05, 3, 4), durations=rng.integers(1, 30, 4), censored=[False] * 4)
    mixed, active = with_bursts(forecast, model), model.active_prob(3, 0)
    for ahead in range(3):
        base = extended(forecast.quantiles[0, ahead])
        parts = [base, *(f * base for f in model.atoms())]
        weights = [1 - active[ahead], *[active[ahead] / 4] * 4]
        for k, u in enumerate(mixed.levels):
            expected = mixture_by_root(mixed.levels, parts, weights, u)
            assert mixed.quantiles[0, ahead, k] == pytest.approx(expected, rel=1e-7)


def test_mixture_quantiles_agree_with_monte_carlo():
    rng, n_draw, lag = np.random.default_rng(4), 400_000, 2
    forecast, model = steady(1, 10, lag=lag), model_of(per_day=20.0)
    mixed = with_bursts(forecast, model)
    rate, ahead = 20.0 / DAY, 9
    starts = rng.poisson(rate, (n_draw, ahead + lag + 1))  # ticks from the first unseen one to the one forecast
    lasts = rng.random(starts.shape) < (1 - (1 - (1 - model.ending_prob) ** np.arange(ahead + lag, -1, -1)) ** starts)
    burst = lasts.any(axis=1)
    assert model.active_prob(10, lag)[ahead] == pytest.approx(burst.mean(), abs=4 * np.sqrt(0.25 / n_draw))
    factor = np.where(burst, rng.choice(model.atoms(), n_draw), 1.0)
    draws = factor * np.interp(rng.random(n_draw), mixed.levels, extended(forecast.quantiles[0, ahead]))
    share = (draws[:, None] <= mixed.quantiles[0, ahead, 1:-1]).mean(axis=0)
    assert share == pytest.approx(mixed.levels[1:-1], abs=4 * np.sqrt(0.25 / n_draw))
    assert mixed.mean[0, ahead] == pytest.approx(forecast.mean[0, 0] * factor.mean(), rel=4 * 0.35 / np.sqrt(n_draw))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_mixture_never_lowers_a_quantile_and_keeps_their_order(seed):
    rng = np.random.default_rng(seed)
    forecast = rolling(np.sort(rng.uniform(0, 100, (40, 5, len(LEVELS))), axis=-1))
    work = on(forecast, rng.uniform(0, 300, 40))
    mixed = with_bursts(forecast, model_of(per_day=float(rng.uniform(0, 200))), demand=work)
    assert (mixed.quantiles[..., : len(LEVELS)] >= forecast.quantiles - 1e-9).all()
    assert (np.diff(mixed.quantiles, axis=-1) >= -1e-9).all()
    assert (mixed.mean >= forecast.mean - 1e-9).all()


@pytest.mark.parametrize("lag", [0, 2])
def test_a_burst_in_progress_raises_the_later_horizons(lag):
    forecast, model = steady(60, lag=lag), model_of(per_day=1.0)
    work = np.full(60, 100.0)
    work[20:40] = 170.0
    mixed = with_bursts(forecast, model, demand=on(forecast, work))
    calm, first = mixed.at(0.95)[20 + lag], mixed.at(0.95)[21 + lag]
    assert np.array_equal(mixed.at(0.95)[20 + lag], mixed.at(0.95)[5])  # the onset is not yet known
    assert (first[:15] > 1.5 * calm[:15]).all()
    survival = (1 - model.ending_prob) ** (np.arange(30) + 1 + lag)
    assert mixed.mean[21 + lag] == pytest.approx(forecast.mean[0] * (1 + 0.7 * survival))
    assert np.array_equal(mixed.quantiles[41 + lag], mixed.quantiles[5])  # over, and known to be over


def test_no_row_knows_its_future():
    rng, lag = np.random.default_rng(6), 1
    forecast = rolling(np.sort(rng.uniform(50, 100, (80, 10, len(LEVELS))), axis=-1), lag=lag)
    work, other = rng.uniform(50, 200, (2, 80))
    other[:40] = work[:40]
    one, two = (with_bursts(forecast, model_of(), demand=on(forecast, w)).quantiles for w in (work, other))
    assert np.array_equal(one[: 40 + lag + 1], two[: 40 + lag + 1])
    assert not np.array_equal(one, two)


def test_bursts_learnt_on_past_days_cut_the_drops_of_later_ones():
    rng, days = np.random.default_rng(8), 12
    forecast = steady(days * DAY, 6)
    factor = burst_factor(days * DAY, 6.0 / DAY, 1.8, 20.0, rng=rng)
    work = on(forecast, (100 + 4 * rng.standard_normal(days * DAY)) * factor)
    half = days // 2 * DAY
    past, later = (
        RollingQuantiles(forecast.timestamps[s], LEVELS, forecast.quantiles[s], forecast.mean[s], "steady", 0)
        for s in (slice(0, half), slice(half, None))
    )
    model = fit_bursts(work, past)
    world = Environment(tick_seconds=60, service_rate_rps=0.1, price_drop_usd=0.05)
    runs = {
        name: simulate(work.iloc[half:], Newsvendor(0.99), world, forecast=ahead)
        for name, ahead in (("plain", later), ("bursts", with_bursts(later, model, demand=work)))
    }
    assert runs["bursts"].ticks.dropped.sum() < 0.7 * runs["plain"].ticks.dropped.sum()


def test_says_what_misfits():
    forecast = steady(DAY)
    work = on(forecast, np.full(DAY, 100.0))
    with pytest.raises(SchemaError, match="does not hold the ticks"):
        fit_bursts(work.iloc[1:], forecast)
    with pytest.raises(SchemaError, match="level 0.9990"):
        fit_bursts(work, forecast, level=0.999)
    with pytest.raises(SchemaError, match="ticks of 300 s"):
        with_bursts(forecast, BurstModel(1.0, np.ones(1), np.ones(1), np.zeros(1, bool), 0.995, 300.0))


def test_a_longer_demand_is_cut_to_the_forecast():
    forecast = steady(100)
    index = pd.date_range(forecast.timestamps[0] - pd.Timedelta(hours=1), periods=200, freq="60s", tz="UTC")
    work = pd.Series(100.0, index=index)
    work.iloc[80] = 300.0  # tick 20 of the forecast
    assert fit_bursts(work, forecast).factors == pytest.approx([3.0])
    mixed = with_bursts(forecast, model_of(), demand=work)
    assert mixed.mean[21, 0] > mixed.mean[20, 0] == mixed.mean[22, 0]


def test_one_level_has_no_tail():
    times = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
    one = RollingQuantiles(times, np.array([0.5]), np.ones((3, 1, 1)), np.ones((3, 1)), "one", 0)
    with pytest.raises(SchemaError, match="two are needed"):
        with_bursts(one, BurstModel(1.0, np.array([2.0]), np.array([1]), np.array([False]), 0.995, 60.0))
