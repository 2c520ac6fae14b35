"""Scores of hand-made runs against loops, and the bootstrap interval."""

import math

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Reactive, Run, Static, cost_difference, score, score_table, simulate
from support.autoscaling.scoring import budget_burn, elasticity
from support.errors import SchemaError

WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, slo_wait_seconds=0.5)


def trace(values, tick=60):
    index = pd.date_range("2026-01-01", periods=len(values), freq=f"{tick}s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


def hand_made():
    index = trace(range(4)).index
    ticks = pd.DataFrame(
        {
            "arrivals": [60.0, 150.0, 0.0, 90.0], "served": [60.0, 120.0, 0.0, 90.0], "dropped": [0.0, 30.0, 0.0, 0.0],
            "queue": 0.0, "servers": [1, 2, 2, 3], "booting": 0, "started": [0, 1, 0, 1], "stopped": [0, 0, 0, 0],
            "wait_seconds": [0.1, 0.0, 0.0, 0.9], "cost_usd": [1.0, 2.0, 3.0, 4.0], "reason": "x",
        },
        index=index,
    )  # fmt: skip
    return Run("hand", WORLD, ticks, {"servers": 7.0, "drops": 3.0})


def test_a_hand_made_run():
    got = score(hand_made())
    assert got["cost_usd"] == 10
    assert got["dropped_percent"] == pytest.approx(100 * 30 / 300)
    assert got["late_percent"] == pytest.approx(100 * 90 / 300)
    assert got["request_slo_percent"] == pytest.approx(60.0)
    assert got["minute_slo_percent"] == 50.0  # the second drops, the fourth waits
    assert got["churn_percent"] == 50.0
    assert got["starts_per_day"] == pytest.approx(2 * 360)
    assert got["mean_servers"] == 2.0
    assert got["slack_percent"] == pytest.approx(100 * (1 - 270 / (8 * 60)))
    assert got["under_percent"] == pytest.approx(100 * (0 + 1 / 3 + 0 + 0) / 4)  # needs 1, 3, 0, 2 servers
    assert got["over_percent"] == pytest.approx(100 * (0 + 0 + 2 / 1 + 1 / 2) / 4)


def test_requests_that_give_up_count_in_both_service_levels():
    run = hand_made()
    run.ticks["abandoned"] = [0.0, 0.0, 0.0, 30.0]
    run.ticks["dropped"] = [0.0, 0.0, 0.0, 0.0]
    got = score(run)
    assert got["abandoned_percent"] == pytest.approx(10.0) and got["dropped_percent"] == 0.0
    assert got["late_percent"] == pytest.approx(100 * 60 / 300)  # of the 90 that were late 30 had left
    assert got["request_slo_percent"] == pytest.approx(70.0) and got["minute_slo_percent"] == 75.0
    assert got["request_budget_burn"] == pytest.approx(0.3 / 0.001)
    assert got["minute_budget_burn"] == pytest.approx(0.25 / 0.001)
    assert got["wait_p95_seconds"] == got["wait_p99_seconds"] == 0.9


def test_churn_counts_control_ticks():
    world = Environment(tick_seconds=60, service_rate_rps=1.0, control_every_ticks=3)
    run = Run("hand", world, hand_made().ticks.assign(started=[0, 0, 0, 1]), {"servers": 1.0})
    assert score(run)["churn_percent"] == 50.0  # ticks 0 and 3 are control ticks, the second changes


def test_error_budget_burn():
    assert budget_burn(0.9995, 0.999) == pytest.approx(0.5)
    assert budget_burn(1.0, 1.0) == 0 and math.isinf(budget_burn(0.5, 1.0))


def test_thetas_by_loop():
    demand = np.random.default_rng(2).uniform(0, 500, 300)
    run = simulate(trace(demand), Reactive(0.6), WORLD)
    under = over = 0.0
    for arrivals, have in zip(demand, run.ticks["servers"], strict=True):
        need = math.ceil(arrivals / 60)
        under += max(need - have, 0) / max(need, 1)
        over += max(have - need, 0) / max(need, 1)
    got = score(run)
    assert got["under_percent"] == pytest.approx(100 * under / 300) and got["over_percent"] == pytest.approx(
        100 * over / 300
    )
    assert got["request_slo_percent"] == pytest.approx(100 - got["dropped_percent"] - got["late_percent"])


def test_a_trace_without_requests_has_no_nan():
    got = score(simulate(trace(np.zeros(50)), Static(1), WORLD))
    assert (
        all(math.isfinite(v) for v in got.values())
        and got["request_slo_percent"] == 100
        and got["minute_slo_percent"] == 100
    )


def test_table_keeps_the_order():
    runs = [simulate(trace(np.full(50, 90.0)), p, WORLD) for p in (Static(2), Reactive(0.7, "r"))]
    table = score_table(runs)
    assert table.index.tolist() == ["static", "r"] and table.loc["r"].to_dict() == score(runs[1])


def daily(costs, noise, rng):
    """A run of 24 ticks a day with the given daily costs."""
    spread = np.repeat(np.asarray(costs) / 24, 24) * np.exp(noise * rng.normal(size=24 * len(costs)))
    ticks = pd.DataFrame({"cost_usd": spread}, index=trace(spread, 3600).index)
    return Run("x", WORLD, ticks, {"servers": float(spread.sum())})


def test_bootstrap_covers_a_known_saving_as_often_as_it_says():
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(150):
        base = rng.gamma(20, 5, 30)
        a, b = daily(base * 0.8 * np.exp(0.1 * rng.normal(size=30)) / np.exp(0.005), 0.0, rng), daily(base, 0.0, rng)
        estimate, low, high = cost_difference(a, b, rng=rng, n_draws=300)
        assert low <= estimate <= high and estimate == pytest.approx(1 - a.cost_usd / b.cost_usd)
        hits += low <= 0.2 <= high
    assert 0.8 <= hits / 150 <= 0.97


def test_bootstrap_pairs_the_days():
    rng = np.random.default_rng(8)
    base = rng.gamma(1, 100, 20)  # days differ wildly, the saving does not
    estimate, low, high = cost_difference(daily(0.7 * base, 0, rng), daily(base, 0, rng), rng=rng)
    assert (estimate, low, high) == pytest.approx((0.3, 0.3, 0.3))


def test_one_day_says_nothing():
    rng = np.random.default_rng(8)
    assert cost_difference(daily([5.0], 0, rng), daily([10.0], 0, rng), rng=rng) == (0.5, -np.inf, np.inf)


def test_elasticity_by_hand():
    got = elasticity(hand_made())  # needs 1, 3, 0, 2 servers, has 1, 2, 2, 3
    assert got["under_time_percent"] == 25.0 and got["over_time_percent"] == 50.0
    assert got["instability_percent"] == pytest.approx(
        100 / 3
    )  # together: up and up, then down and hold, then up and up
    assert got["jitter_per_minute"] == pytest.approx((2 - (2 + 3 + 2)) / 4)
    half = elasticity(hand_made(), 0.5)  # needs 2, 5, 0, 3
    assert half["under_percent"] == pytest.approx(100 * (1 / 2 + 3 / 5) / 4)
    assert half["over_percent"] == pytest.approx(100 * 2 / 4) and half["over_time_percent"] == 25.0


@pytest.mark.parametrize("target", [1.0, 0.6])
def test_elasticity_by_loop(target):
    rng = np.random.default_rng(5)
    demand = rng.uniform(0, 500, 400) * np.repeat(rng.choice([0, 1, 1], 40), 10)
    world = Environment(tick_seconds=15, service_rate_rps=1.0)
    run = simulate(trace(demand, 15), Reactive(0.6), world)
    have = run.ticks["servers"].tolist()
    need = [math.ceil(arrivals / (15 * target)) for arrivals in demand]
    sums = dict.fromkeys(("under", "over", "under_time", "over_time", "instability"), 0.0)
    jitter = 0
    for t in range(400):
        sums["under"] += max(need[t] - have[t], 0) / max(need[t], 1)
        sums["over"] += max(have[t] - need[t], 0) / max(need[t], 1)
        sums["under_time"] += need[t] > have[t]
        sums["over_time"] += have[t] > need[t]
        if t:
            ds, dr = have[t] - have[t - 1], need[t] - need[t - 1]
            sums["instability"] += min(abs((ds > 0) - (ds < 0) - (dr > 0) + (dr < 0)), 1) * 400 / 399
            jitter += abs(ds) - abs(dr)
    got = elasticity(run, target)
    assert got.pop("jitter_per_minute") == pytest.approx(jitter / 100)
    assert got == {f"{name}_percent": pytest.approx(100 * value / 400) for name, value in sums.items()}


def test_a_fleet_that_never_moves_is_as_unstable_as_demand_moves():
    rng = np.random.default_rng(7)
    need = rng.integers(0, 6, 200)
    got = elasticity(simulate(trace(need * 60.0), Static(3), WORLD, initial_servers=3))
    assert got["instability_percent"] == pytest.approx(100 * np.mean(need[1:] != need[:-1]))
    assert got["jitter_per_minute"] == pytest.approx(
        -sum(abs(int(a) - int(b)) for a, b in zip(need[1:], need[:-1], strict=True)) / 200
    )
    assert got["under_time_percent"] + got["over_time_percent"] == pytest.approx(100 * np.mean(need != 3))


def test_elasticity_of_twice_the_fleet_for_twice_the_demand_is_the_same_but_for_the_jitter():
    rng = np.random.default_rng(11)
    need, have = rng.integers(1, 9, 120), rng.integers(1, 9, 120)
    one, two = (simulate(trace(k * need * 60.0), Static(1), WORLD) for k in (1, 2))
    one.ticks["servers"], two.ticks["servers"] = have, 2 * have
    first, second = elasticity(one), elasticity(two)
    assert second.pop("jitter_per_minute") == pytest.approx(2 * first.pop("jitter_per_minute"))
    assert second == pytest.approx(first)


def test_a_fleet_that_is_the_demand_is_perfectly_elastic():
    demand = trace(np.random.default_rng(1).integers(1, 9, 50) * 60.0)
    run = simulate(demand, Static(1), WORLD)
    run.ticks["servers"] = (demand / 60).astype(int)
    assert set(elasticity(run).values()) == {0.0}
    with pytest.raises(SchemaError, match="target_utilization"):
        elasticity(run, 1.2)
