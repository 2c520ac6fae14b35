"""The compiled engine against the readable simulator, to the last bit, on random worlds; causality of both."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, ForecastMean, Newsvendor, Reactive, Static, score, simulate
from support.autoscaling.batch import prepare_batch, run_batch
from support.autoscaling.fleet import BootDraws
from support.autoscaling.rules import Plan, TargetTracking, Thresholds
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

N_TIME, N_ENV = 70, 24
COLUMNS = [
    "servers", "booting", "draining", "started", "stopped", "failed", "billed", "served", "dropped", "abandoned",
    "queue",
]  # fmt: skip


def trace(values, tick):
    index = pd.date_range("2026-01-01", periods=len(values), freq=f"{tick}s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


def some_world(rng, at_random, longest=False):
    """A random environment; with `longest` the delays take the most that others may have, so that shapes agree."""
    tick = float(rng.choice([15, 60, 120]))

    def ticks(most):
        return most if longest else int(rng.integers(0, most + 1))

    return Environment(
        tick_seconds=tick, service_rate_rps=rng.uniform(0.2, 3), price_server_hour_usd=rng.uniform(0, 5),
        price_drop_usd=rng.uniform(0, 0.1), price_start_usd=rng.uniform(0, 1), price_stop_usd=rng.uniform(0, 1),
        price_wait_hour_usd=rng.uniform(0, 1), boot_delay_ticks=ticks(6), cooldown_ticks=ticks(4),
        min_servers=int(rng.integers(0, 3)), max_servers=12, metric_lag_ticks=ticks(3), drain_ticks=ticks(3),
        queue_limit=float(rng.choice([0, 30.5, 2000])), slo_wait_seconds=rng.uniform(0.05, 2),
        max_step_up=rng.choice([None, 1, 3]), max_step_down=rng.choice([None, 1, 2]),
        quota_servers=rng.choice([None, 6, 12]), control_every_ticks=int(rng.integers(1, 4)),
        queue_patience_ticks=ticks(3) if at_random else None, boot_delay_sigma=0.5 * at_random,
        boot_failure_prob=0.3 * at_random, boot_timeout_ticks=8,
    )  # fmt: skip


def some_policy(rng, world, k):
    """One of the kinds in turn, with random numbers."""
    low = rng.uniform(0, 0.5)
    return [
        Static(int(rng.integers(-1, 14))),
        Plan(rng.integers(-3, 16, N_TIME)),
        Reactive(rng.uniform(0.2, 1)),
        Thresholds(low + rng.uniform(0.1, 0.5), low, int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        TargetTracking(rng.uniform(0.3, 1), int(rng.integers(1, 4)), int(rng.integers(1, 7))),
    ][k % 5]


def instance(seed, at_random):
    rng = np.random.default_rng(seed)
    worlds = [some_world(rng, at_random, longest=k == 0) for k in range(N_ENV)]
    policies = [some_policy(rng, world, k) for k, world in enumerate(worlds)]
    level = [rng.uniform(0.2, 9) * world.capacity_per_tick for world in worlds]
    demand = np.array([rng.choice([0, 1, 1, 1.6], N_TIME) * rng.poisson(mean, N_TIME) for mean in level])
    boots = [BootDraws.draw(world, N_TIME, rng=rng) for world in worlds]
    if at_random:  # the longest delay decides the shape that is compiled: keep it the same
        boots = [BootDraws(np.minimum(b.delays, 15), b.failures) for b in boots]
        boots[0].delays[0] = 15
    first = rng.integers(0, 14, N_ENV)
    return demand, policies, worlds, first, boots if at_random else []


def check(seed, at_random):
    demand, policies, worlds, first, boots = instance(seed, at_random)
    batch = prepare_batch(demand, policies, worlds, initial_servers=first, boots=boots)
    run = run_batch(batch, keep_ticks=True)
    scores = run.scores()
    for k, (world, policy) in enumerate(
        zip(worlds, policies, strict=True)
    ):  # float64 throughout: equal to the last bit
        series = trace(demand[k], int(world.tick_seconds))
        twin = simulate(series, policy, world, initial_servers=int(first[k]), boots=boots[k] if boots else None)
        for name in COLUMNS:
            np.testing.assert_array_equal(run.ticks[name][:, k], twin.ticks[name], err_msg=f"{name} {policy}")
        late = twin.ticks["wait_seconds"] > world.slo_wait_seconds
        np.testing.assert_array_equal(run.ticks["late"][:, k], late)
        for part, cost in twin.costs.items():
            assert run.costs[part][k] == pytest.approx(cost, rel=1e-10, abs=1e-10)
        wanted = score(twin)
        for name, value in scores.iloc[k].items():
            assert value == pytest.approx(wanted[name], rel=1e-9, abs=1e-9), (name, policy)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9))
def test_every_tick_equals_the_readable_simulator(seed):
    check(seed, False)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9))
def test_random_boots_failures_and_lost_patience_too(seed):
    check(seed, True)


@pytest.fixture(scope="module")
def week():
    rng = np.random.default_rng(3)
    level = 600 * (1.3 + np.sin(2 * np.pi * np.arange(288) / 288))
    demand = rng.poisson(level).astype(float)
    levels = np.array([0.1, 0.5, 0.9, 0.99])
    ahead = np.array([np.roll(level, -h) for h in range(4)]).T
    quantiles = ahead[:, :, None] * np.array([0.9, 1.0, 1.1, 1.3])
    index = trace(demand, 300).index
    return demand, RollingQuantiles(index, levels, quantiles, ahead, "known", 0)


def test_forecast_policies_become_plans(week):
    demand, forecast = week
    world = Environment(tick_seconds=300, service_rate_rps=0.5, boot_delay_ticks=3, cooldown_ticks=1, max_servers=60)
    policies = [ForecastMean(0.1), Newsvendor(), Newsvendor(0.9), Reactive(0.7)]
    run = run_batch(prepare_batch(demand, policies, [world], forecasts=[forecast]))
    for k, policy in enumerate(policies):
        twin = simulate(trace(demand, 300), policy, world, forecast=forecast)
        assert run.cost_usd[k] == pytest.approx(twin.cost_usd, rel=1e-12)
        assert run.totals["started"][k] == twin.ticks["started"].sum()


def test_shared_traces_equal_traces_of_ones_own():
    demand, policies, worlds, first, _ = instance(5, False)
    rows = np.arange(N_ENV) % 3
    shared = run_batch(prepare_batch(demand[:3], policies, worlds, trace=rows, initial_servers=first))
    own = run_batch(prepare_batch(demand[rows], policies, worlds, initial_servers=first))
    for name, values in shared.totals.items():
        np.testing.assert_array_equal(values, own.totals[name])


@pytest.mark.parametrize("cut", [1, 20, 55])
def test_perturbing_the_future_changes_no_action_of_either_engine(cut):
    demand, policies, worlds, first, _ = instance(11, False)
    shocked = demand.copy()
    shocked[:, cut:] = np.random.default_rng(cut).uniform(0, 5000, shocked[:, cut:].shape)
    one, two = (
        run_batch(prepare_batch(d, policies, worlds, initial_servers=first), keep_ticks=True).ticks
        for d in (demand, shocked)
    )
    differs = 0
    for k, (world, policy) in enumerate(zip(worlds, policies, strict=True)):
        last = cut + world.metric_lag_ticks + 1  # the first action that may know tick `cut`
        for name in ("started", "stopped"):
            np.testing.assert_array_equal(one[name][:last, k], two[name][:last, k])
            runs = [
                simulate(trace(d[k], int(world.tick_seconds)), policy, world, initial_servers=int(first[k])).ticks[name]
                for d in (demand, shocked)
            ]
            np.testing.assert_array_equal(runs[0][:last], runs[1][:last])
            differs += (one[name][last:, k] != two[name][last:, k]).any()
    assert differs > 0  # the shock does reach those who look at demand


def test_the_engine_leaves_the_precision_of_others_alone():
    before = jax.config.jax_enable_x64
    run_batch(prepare_batch(np.full(9, 60.0), [Static(1)], [Environment(tick_seconds=60, service_rate_rps=1.0)]))
    assert jax.config.jax_enable_x64 == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demand": [1.0, -1.0, 2.0]}, "demand"),
        ({"demand": [1.0]}, "demand"),
        ({"policies": [Static(1), Static(2)], "environments": ["plain"] * 3}, "do not fit"),
        ({"environments": ["blocks"]}, "billing_block_ticks"),
        ({"environments": ["random"]}, "boots"),
        ({"environments": ["plain", "patient"]}, "patience"),
        ({"policies": [Plan(np.ones(2))]}, "fewer"),
        ({"policies": ["other"]}, "no compiled twin"),
    ],
)
def test_what_the_engine_refuses(changes, message):
    kinds = {
        "plain": {}, "blocks": {"billing_block_ticks": 60}, "random": {"boot_failure_prob": 0.1},
        "patient": {"queue_patience_ticks": 2},
    }  # fmt: skip

    class Other:
        name = "other"

    made = {"demand": [1.0, 2.0, 3.0], "policies": [Static(1)], "environments": ["plain"]} | changes
    worlds = [Environment(tick_seconds=60, service_rate_rps=1.0, **kinds[name]) for name in made["environments"]]
    policies = [Other() if p == "other" else p for p in made["policies"]]
    with pytest.raises(SchemaError, match=message):
        prepare_batch(np.array(made["demand"]), policies, worlds)


def test_the_batch_refuses_what_simulate_refuses():
    world = Environment(tick_seconds=60, service_rate_rps=1.0, metric_lag_ticks=3, max_servers=5)
    times = pd.date_range("2026-01-01", periods=50, freq="60s", tz="UTC")
    fresh = RollingQuantiles(times, np.array([0.5]), np.ones((50, 1, 1)), np.ones((50, 1)), "fresh", 0)
    with pytest.raises(SchemaError, match="newer data"):
        prepare_batch(np.ones(50), [ForecastMean()], [world], forecasts=[fresh])
    risky = replace(world, boot_failure_prob=0.5)
    few = BootDraws.draw(replace(risky, max_servers=4), 50, rng=np.random.default_rng(1))
    short = BootDraws.draw(risky, 20, rng=np.random.default_rng(1))
    for boots in (few, short):
        with pytest.raises(SchemaError, match="fewer ticks or servers"):
            prepare_batch(np.ones(50), [Static(5)], [risky], boots=[boots])
