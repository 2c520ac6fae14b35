"""Policies: the rule by hand, causality, and what they refuse."""

import itertools

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, ForecastMean, Newsvendor, Reactive, Static, servers_for, simulate
from support.errors import SchemaError
from support.forecasting import RollingQuantiles, roll_daily

WORLD = Environment(tick_seconds=600, service_rate_rps=1.0, boot_delay_ticks=2, cooldown_ticks=1, price_drop_usd=0.002)
POLICIES = [Static(5), Reactive(0.7), ForecastMean(0.2), Newsvendor()]
START = 144 * 6


def demand(seed=0, days=9):
    index = pd.date_range("2026-01-05", periods=144 * days, freq="600s", tz="UTC")
    level = 6000 * (1.3 + np.sin(2 * np.pi * np.arange(len(index)) / 144))
    return pd.Series(np.random.default_rng(seed).poisson(level).astype(float), index=index, name="requests")


def play(series, policy, world=WORLD):
    start = series.index[START]
    rolling = roll_daily(
        series, start, train_days=5, horizon_ticks=world.boot_delay_ticks + 1, lag_ticks=world.metric_lag_ticks
    )
    return simulate(series[series.index >= start], policy, world, forecast=rolling, initial_servers=9).ticks


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
def test_perturbing_the_future_does_not_change_the_action(policy, lag):
    world = Environment(tick_seconds=600, service_rate_rps=1.0, boot_delay_ticks=2, metric_lag_ticks=lag)
    calm = demand()
    base = play(calm, policy, world)
    for cut in (1, 77, 143, 144, 300):
        shocked = calm.copy()
        shocked.iloc[START + cut :] = np.random.default_rng(cut).uniform(0, 50_000, len(calm) - START - cut)
        other = play(shocked, policy, world)
        last = cut + lag  # the first action that may differ is that of tick cut + lag + 1
        pd.testing.assert_series_equal(base["started"].iloc[: last + 1], other["started"].iloc[: last + 1])
        pd.testing.assert_series_equal(base["stopped"].iloc[: last + 1], other["stopped"].iloc[: last + 1])


@pytest.mark.parametrize("policy", [Reactive(0.7), ForecastMean(), Newsvendor()], ids=lambda p: p.name)
def test_actions_do_depend_on_the_past(policy):
    calm = demand()
    shocked = calm.copy()
    shocked.iloc[START + 50 : START + 60] *= 4
    assert (play(calm, policy)["servers"] != play(shocked, policy)["servers"]).any()


def rolling_of(quantiles, levels, mean=None, lag=0):
    quantiles = np.asarray(quantiles, dtype=float)
    index = pd.date_range("2026-01-01", periods=quantiles.shape[0], freq="60s", tz="UTC")
    mean = quantiles.mean(axis=2) if mean is None else np.asarray(mean, dtype=float)
    return RollingQuantiles(index, np.asarray(levels), quantiles, mean, "by hand", lag)


def test_newsvendor_by_hand():
    world = Environment(
        tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, price_drop_usd=1.0, price_server_hour_usd=900.0
    )
    assert world.critical_fractile == pytest.approx(
        0.75
    )  # a server-minute costs 15 USD, the 60 requests it serves are worth 60
    rolling = rolling_of([[[100, 200], [120, 260]], [[0, 10], [0, 5]], [[60, 60], [60, 61]]], [0.5, 0.75])
    wanted, reason = Newsvendor().prepare(world, rolling)
    assert wanted.tolist() == [5, 1, 2] and reason.startswith("75.0 %")
    assert Newsvendor(0.5).prepare(world, rolling)[0].tolist() == [2, 0, 1]
    assert Newsvendor(0.625).prepare(world, rolling)[0].tolist() == [4, 1, 2]  # 190 between the levels


def test_forecast_mean_and_reactive_by_hand():
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1)
    rolling = rolling_of(np.ones((2, 2, 2)), [0.5, 0.75], mean=[[100, 130], [60, 50]])
    assert ForecastMean().prepare(world, rolling).tolist() == [3, 1]
    assert ForecastMean(0.2).prepare(world, rolling).tolist() == [3, 2]
    series = pd.Series([100.0, 200.0, 0.0], index=rolling_of(np.ones((3, 2, 2)), [0.5, 0.75]).timestamps)
    ticks = simulate(series, Reactive(0.5), world, initial_servers=3).ticks
    assert ticks["reason"].iloc[0] == "no data yet"
    assert (ticks["servers"] + ticks["booting"]).tolist() == [3, 4, 7]  # ceil(100 / 30), ceil(200 / 30)


def test_a_hair_of_float_error_does_not_cost_a_server():
    world = Environment(tick_seconds=60, service_rate_rps=0.1)
    assert servers_for(np.array([0.0, 6.0, 18.000000000001, 18.1]), world).tolist() == [0, 1, 3, 4]


def test_what_policies_refuse():
    series = demand().iloc[:30]
    with pytest.raises(SchemaError, match="needs a forecast of 3 ticks"):
        simulate(series, Newsvendor(), WORLD)
    for target in (0.0, 1.2):
        with pytest.raises(SchemaError, match="target_utilization"):
            simulate(series, Reactive(target), WORLD)
    lagged = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, metric_lag_ticks=3)
    rolling = rolling_of(np.ones((3, 2, 2)), [0.5, 0.75], lag=1)
    with pytest.raises(SchemaError, match="1 tick old"):
        simulate(pd.Series(1.0, index=rolling.timestamps), Newsvendor(), lagged, forecast=rolling)


@pytest.mark.parametrize("ratio", [1.5, 4.0, 60.0])
def test_the_fractile_minimises_the_expected_cost_over_all_fleets(ratio):
    sample = np.random.default_rng(6).gamma(3, 200, 8000)
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=0, price_drop_usd=ratio * 0.12 / 3600)
    costs = {
        n: world.price_server_tick_usd * n + world.price_drop_usd * np.maximum(sample - 60 * n, 0).mean()
        for n in range(80)
    }
    best = min(costs, key=costs.get)
    levels = np.linspace(0.001, 0.999, 999)
    rolling = rolling_of(np.quantile(sample, levels)[None, None].repeat(2, axis=0), levels)
    wanted = int(Newsvendor().prepare(world, rolling)[0][0])
    # whole servers: the last one that pays covers demand with a probability next to the fractile
    assert abs(wanted - best) <= 1 and costs[wanted] <= costs[best] * 1.005


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_no_policy_beats_every_action_sequence(delay):
    world = Environment(
        tick_seconds=60,
        service_rate_rps=1.0,
        boot_delay_ticks=delay,
        min_servers=0,
        max_servers=3,
        price_drop_usd=1e-4,
        price_start_usd=5e-4,
    )
    rng = np.random.default_rng(delay)
    for _ in range(3):
        index = pd.date_range("2026-01-01", periods=5, freq="60s", tz="UTC")
        series = pd.Series(rng.choice([0.0, 40.0, 90.0, 170.0], 5), index=index)
        best = np.inf
        for plan in itertools.product(range(4), repeat=5):
            ready, active, cost = [], 1, 0.0
            for t, ask in enumerate(plan):
                while ask < active + len(ready) and ready:
                    ready.pop()
                active = min(active, ask) if not ready else active
                new = max(ask - active - len(ready), 0)
                ready += [t + delay] * new
                active, ready = active + sum(r <= t for r in ready), [r for r in ready if r > t]
                cost += 0.002 * (active + len(ready)) + 5e-4 * new + 1e-4 * max(series.iloc[t] - 60 * active, 0)
            best = min(best, cost)
        quantiles = np.sort(rng.uniform(0, 180, (5, delay + 1, 3)), axis=2)
        rolling = RollingQuantiles(index, np.array([0.1, 0.5, 0.9]), quantiles, quantiles.mean(axis=2), "any", 0)
        for policy in (
            Static(1),
            Static(2),
            Reactive(0.6),
            Reactive(1.0),
            ForecastMean(),
            ForecastMean(0.5),
            Newsvendor(),
            Newsvendor(0.3),
        ):
            assert simulate(series, policy, world, forecast=rolling, initial_servers=1).cost_usd >= best - 1e-12


def test_the_newsvendor_buys_nothing_where_nothing_pays():
    times = pd.date_range("2026-01-01", periods=20, freq="60s", tz="UTC")
    ahead = RollingQuantiles(
        times, np.array([0.1, 0.9]), np.full((20, 1, 2), 150.0), np.full((20, 1), 150.0), "flat", 0
    )
    free = Environment(tick_seconds=60, service_rate_rps=1.0, price_drop_usd=0.0, min_servers=0, boot_delay_ticks=0)
    assert (
        simulate(pd.Series(150.0, index=times), Newsvendor(), free, forecast=ahead)
        .ticks["servers"]
        .iloc[1:]
        .eq(0)
        .all()
    )
    with pytest.raises(SchemaError, match=r"fractile is 2.0"):
        Newsvendor(2.0).prepare(free, ahead)
