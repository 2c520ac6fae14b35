"""Every policy of the table: it runs, says why, knows no future, obeys the world, and costs no less than the oracle."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, simulate
from support.autoscaling.catalog import POLICIES, build_policy
from support.autoscaling.oracle import optimum
from support.errors import SchemaError
from support.forecasting import roll_daily

PER_DAY = 144
START = PER_DAY * 6
HORIZON = 8
WORLD = Environment(
    tick_seconds=600, service_rate_rps=1.0, boot_delay_ticks=2, cooldown_ticks=1, price_drop_usd=0.002, max_servers=60,
    price_start_usd=0.01,
)  # fmt: skip


def demand(seed=0, days=8):
    index = pd.date_range("2026-01-05", periods=PER_DAY * days, freq="600s", tz="UTC")
    rng = np.random.default_rng(seed)
    level = 6000 * (1.3 + np.sin(2 * np.pi * np.arange(len(index)) / PER_DAY))
    level[START + 40 : START + 44] *= 1.8
    return pd.Series(rng.poisson(level).astype(float), index=index, name="requests")


def play(series, name, world=WORLD):
    """The run on the days after START, sized, tuned and forecast on the past only."""
    past, test = series.iloc[:START], series.iloc[START:]
    rolling = None
    if POLICIES[name].needs_forecast:
        rolling = roll_daily(
            series, test.index[0], train_days=5, horizon_ticks=HORIZON, lag_ticks=world.metric_lag_ticks
        )
    policy = build_policy(name, world, past)
    assert policy.name == name
    return simulate(test, policy, world, forecast=rolling, initial_servers=9)


@pytest.fixture(scope="module")
def best():
    return optimum(demand().iloc[START:], WORLD, initial_servers=9).cost_usd


@pytest.mark.parametrize("name", POLICIES)
def test_it_runs_within_the_world_and_says_why(name, best):
    run = play(demand(), name)
    ticks = run.ticks
    total = ticks["servers"] + ticks["booting"]
    assert (ticks["reason"].str.len() > 3).all()
    assert total.between(1, 60).all()
    changed = ((ticks["started"] > 0) | (ticks["stopped"] > 0)).to_numpy()
    assert not (changed[1:] & changed[:-1]).any()  # the cooldown
    lost = ticks["dropped"] + ticks["abandoned"]
    np.testing.assert_allclose(ticks["arrivals"], ticks["served"] + lost, rtol=1e-12)  # nothing waits here
    assert run.cost_usd == pytest.approx(sum(run.costs.values())) and run.cost_usd >= best - 1e-9
    assert changed.any()


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("name", POLICIES)
def test_perturbing_the_future_changes_no_action(name, lag):
    world = replace(WORLD, metric_lag_ticks=lag)
    calm = demand()
    base = play(calm, name, world).ticks
    for cut in (1, 77, 144, 200):
        shocked = calm.copy()
        shocked.iloc[START + cut :] = np.random.default_rng(cut).uniform(0, 50_000, len(calm) - START - cut)
        other = play(shocked, name, world).ticks
        last = cut + lag + 1  # the first action that may know tick `cut`
        for column in ("started", "stopped", "reason"):
            pd.testing.assert_series_equal(base[column].iloc[:last], other[column].iloc[:last])
        if name != "static" and cut < 200:
            assert (base["servers"] != other["servers"]).any()  # the shock does reach it


@pytest.mark.parametrize("name", [name for name, entry in POLICIES.items() if entry.needs_forecast])
def test_it_says_that_it_needs_a_forecast(name):
    past = demand().iloc[:START]
    with pytest.raises(SchemaError, match="needs a forecast"):
        simulate(past, build_policy(name, WORLD, past), WORLD)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(SchemaError, match=r"'magic'.*static, thresholds.*stochastic MPC"):
        build_policy("magic", WORLD, demand())


def test_the_static_fleet_carries_the_busy_past_and_the_queue_scaler_leaves_slack():
    past = pd.Series(np.arange(1000.0) * 60, index=pd.date_range("2026-01-01", periods=1000, freq="600s", tz="UTC"))
    assert build_policy("static", WORLD, past).servers == 100  # 0.999 of 59 940 requests, 600 a server
    assert build_policy("keda queue", WORLD, past).scaled_object.queue_length == pytest.approx(420)
    assert build_policy("windowed recommender", WORLD, past).past.tolist() == past.tolist()


@pytest.mark.parametrize(("tick", "out", "in_"), [(15, 12, 60), (60, 3, 15), (120, 2, 8), (600, 1, 2)])
def test_alarms_last_as_long_whatever_the_tick(tick, out, in_):
    policy = build_policy("target tracking", Environment(tick_seconds=tick, service_rate_rps=1.0), demand())
    assert (policy.out_points, policy.in_points) == (out, in_)


def test_rules_that_are_tuned_can_be_built_for_random_boots():
    past = pd.Series(150.0, index=pd.date_range("2026-01-01", periods=3000, freq="60s", tz="UTC"))
    luck = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=3, boot_delay_sigma=0.5)
    assert build_policy("reactive tuned", luck, past).target_utilization == 0.85  # the lowest that needs three
