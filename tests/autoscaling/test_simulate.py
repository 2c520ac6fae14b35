"""The simulator against an independent server-by-server one, its invariants, and the enumerated optimum of tiny instances."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, Reactive, Static, erlang_c_wait, guard, simulate
from support.errors import SchemaError


def trace(values, tick=60):
    index = pd.date_range("2026-01-01", periods=len(values), freq=f"{tick}s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


@dataclass(frozen=True)
class Script:
    """A policy that asks for a list of totals, one a tick."""

    wanted: tuple[int, ...]
    name: str = "script"

    def prepare(self, environment, forecast):
        return None

    def act(self, state, seen):
        return None, self.wanted[seen.tick], "scripted"


def naive(demand, wanted, world, first):
    """Servers as [ordered, ready] pairs, requests as a list of whole and partial units; written from the specification."""
    servers = [[-1, -1] for _ in range(first)]
    backlog, blocked_until, ticks, bill = 0.0, 0, [], 0.0
    for t, arriving in enumerate(demand):
        ask = wanted[t]
        if t < blocked_until:
            ask = len(servers)
        else:
            if world.max_step_up is not None:
                ask = min(ask, len(servers) + world.max_step_up)
            if world.max_step_down is not None:
                ask = max(ask, len(servers) - world.max_step_down)
            ask = max(world.min_servers, min(world.max_servers, ask))
        up, down = max(0, ask - len(servers)), max(0, len(servers) - ask)
        for _ in range(up):
            servers.append([t, t + world.boot_delay_ticks])
        for _ in range(down):  # the youngest booting server first, then any idle one
            booting = [s for s in servers if s[1] > t or (s[0] >= 0 and s[1] == t)]
            servers.remove(max(booting, key=lambda s: s[0]) if booting else servers[0])
        if up or down:
            blocked_until = t + 1 + world.cooldown_ticks
        active = sum(s[1] <= t for s in servers)
        offered = backlog + arriving
        done = min(offered, active * world.service_rate_rps * world.tick_seconds)
        backlog = min(offered - done, world.queue_limit)
        lost = offered - done - backlog
        hours = world.tick_seconds / 3600
        bill += (
            len(servers) * world.price_server_hour_usd * hours
            + up * world.price_start_usd
            + down * world.price_stop_usd
        )
        bill += lost * world.price_drop_usd + backlog * world.price_wait_hour_usd * hours
        ticks.append((active, len(servers) - active, up, down, done, lost, backlog))
    return ticks, bill


@st.composite
def instances(draw):
    n = draw(st.integers(2, 25))
    world = Environment(
        tick_seconds=draw(st.sampled_from([10.0, 60.0, 3600.0])),
        service_rate_rps=draw(st.floats(0.1, 3)),
        boot_delay_ticks=draw(st.integers(0, 5)),
        cooldown_ticks=draw(st.integers(0, 4)),
        min_servers=draw(st.integers(0, 2)),
        max_servers=draw(st.integers(2, 9)),
        queue_limit=draw(st.sampled_from([0.0, 7.5, 300.0])),
        price_start_usd=draw(st.floats(0, 1)),
        price_stop_usd=draw(st.floats(0, 1)),
        price_wait_hour_usd=draw(st.floats(0, 1)),
        price_drop_usd=draw(st.floats(0, 1)),
        max_step_up=draw(st.none() | st.integers(1, 4)),
        max_step_down=draw(st.none() | st.integers(1, 4)),
    )
    peak = 10 * world.capacity_per_tick
    demand = draw(st.lists(st.floats(0, peak), min_size=n, max_size=n))
    wanted = draw(st.lists(st.integers(-2, 12), min_size=n, max_size=n))
    return world, demand, tuple(wanted), draw(st.integers(world.min_servers, world.max_servers))


@settings(max_examples=150, deadline=None)
@given(instances())
def test_every_tick_equals_the_server_by_server_simulation(instance):
    world, demand, wanted, first = instance
    run = simulate(trace(demand, world.tick_seconds), Script(wanted), world, initial_servers=first)
    ticks, bill = naive(demand, wanted, world, first)
    columns = ["servers", "booting", "started", "stopped", "served", "dropped", "queue"]
    np.testing.assert_allclose(run.ticks[columns].to_numpy(), np.array(ticks), rtol=1e-9, atol=1e-7)
    assert run.cost_usd == pytest.approx(bill, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(instances())
def test_invariants(instance):
    world, demand, wanted, first = instance
    run = simulate(trace(demand, world.tick_seconds), Script(wanted), world, initial_servers=first)
    ticks = run.ticks
    scale = 1 + ticks["arrivals"].sum()
    flow = ticks["served"] + ticks["dropped"] + ticks["queue"].diff().fillna(ticks["queue"].iloc[0])
    assert np.abs(ticks["arrivals"] - flow).max() <= 1e-9 * scale
    assert (ticks[["servers", "booting", "started", "stopped", "queue", "dropped"]] >= -1e-9 * scale).to_numpy().all()
    assert (ticks["servers"] + ticks["booting"]).max() <= world.max_servers
    assert ticks["queue"].max() <= world.queue_limit
    assert (ticks["served"] <= ticks["servers"] * world.capacity_per_tick * (1 + 1e-12)).all()
    assert run.cost_usd == pytest.approx(ticks["cost_usd"].sum()) == pytest.approx(sum(run.costs.values()))
    assert (ticks["started"] * ticks["stopped"] == 0).all()
    changes = np.flatnonzero(ticks["started"] + ticks["stopped"])
    assert (np.diff(changes) > world.cooldown_ticks).all()


def test_an_idle_trace_costs_the_minimum_fleet():
    world = Environment(tick_seconds=60, service_rate_rps=1, min_servers=2, price_start_usd=1, price_stop_usd=1)
    run = simulate(trace(np.zeros(90)), Reactive(0.7), world)
    assert run.cost_usd == pytest.approx(90 * 2 * 0.12 / 60)
    assert (run.ticks["wait_seconds"] == 0).all()


def test_doubling_the_tick_leaves_the_rates_of_a_constant_trace_unchanged():
    short = Environment(tick_seconds=60, service_rate_rps=1.0)
    long = Environment(tick_seconds=120, service_rate_rps=1.0)
    a = simulate(trace(np.full(120, 150.0), 60), Static(2), short, initial_servers=2)
    b = simulate(trace(np.full(60, 300.0), 120), Static(2), long, initial_servers=2)
    assert a.cost_usd == pytest.approx(b.cost_usd)
    assert a.ticks["served"].sum() == pytest.approx(b.ticks["served"].sum())
    assert a.ticks["wait_seconds"].iloc[-1] == pytest.approx(b.ticks["wait_seconds"].iloc[-1])


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_an_order_serves_after_the_boot_delay_and_is_paid_from_the_order(delay):
    world = Environment(tick_seconds=60, service_rate_rps=1, boot_delay_ticks=delay, min_servers=0)
    run = simulate(trace(np.full(6, 60.0)), Script((1,) * 6), world, initial_servers=0)
    assert run.ticks["served"].tolist() == [0.0] * delay + [60.0] * (6 - delay)
    assert run.costs["servers"] == pytest.approx(6 * 0.12 / 60)


def test_scaling_down_cancels_the_youngest_booting_server_before_any_active_one():
    world = Environment(tick_seconds=60, service_rate_rps=1, boot_delay_ticks=3, min_servers=0)
    run = simulate(trace(np.full(5, 60.0)), Script((2, 3, 2, 2, 2)), world, initial_servers=1)
    assert run.ticks["servers"].tolist() == [1, 1, 1, 2, 2]  # the order of tick 0 arrives, that of tick 1 was cancelled
    assert run.ticks["booting"].tolist() == [1, 2, 1, 0, 0]


def test_a_random_boot_delay_belongs_to_the_order_and_keeps_its_mean():
    world = Environment(
        tick_seconds=60, service_rate_rps=1, boot_delay_ticks=20, boot_delay_sigma=0.5, max_servers=9, min_servers=0
    )
    waits = []
    for seed in range(200):
        run = simulate(
            trace(np.ones(200)), Script((4,) * 200), world, initial_servers=0, rng=np.random.default_rng(seed)
        )
        assert set(run.ticks["servers"]) <= {0, 4}  # one order, one delay
        waits.append(int((run.ticks["servers"] == 0).sum()))
    assert abs(np.mean(waits) - 20.5) < 4 * np.std(waits) / math.sqrt(
        200
    )  # rounded up to whole ticks: half a tick more
    with pytest.raises(SchemaError, match="rng"):
        simulate(trace(np.ones(9)), Static(1), world)


def guarded_sequences(n_time, most):
    return itertools.product(range(most + 1), repeat=n_time)


@pytest.mark.parametrize(
    ("delay", "cooldown", "queue"), [(0, 0, 0.0), (1, 0, 0.0), (1, 1, 40.0), (2, 0, 40.0), (2, 2, 0.0)]
)
def test_no_policy_beats_the_enumerated_optimum(delay, cooldown, queue):
    world = Environment(
        tick_seconds=60, service_rate_rps=1, boot_delay_ticks=delay, cooldown_ticks=cooldown, queue_limit=queue, min_servers=0,
        max_servers=2, price_drop_usd=2e-4, price_start_usd=1e-4, price_stop_usd=5e-5, price_wait_hour_usd=1e-3,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    for _ in range(4):
        demand = rng.choice([0.0, 50.0, 70.0, 130.0], 6)
        costs = {wanted: naive(demand, wanted, world, 1)[1] for wanted in guarded_sequences(6, 2)}
        best = min(costs, key=costs.get)
        assert simulate(trace(demand), Script(best), world, initial_servers=1).cost_usd == pytest.approx(costs[best])
        for policy in (Static(0), Static(1), Static(2), Reactive(0.5), Reactive(0.7), Reactive(1.0)):
            assert simulate(trace(demand), policy, world, initial_servers=1).cost_usd >= costs[best] - 1e-12


def test_erlang_c_against_the_sum_and_the_queue_of_one_server():
    for n, load in [(1, 0.3), (2, 1.5), (7, 6.0), (40, 35.0), (120, 100.0)]:
        last = math.prod(load / k for k in range(1, n + 1)) * n / (n - load)
        probability = last / (sum(math.prod(load / k for k in range(1, j + 1)) for j in range(n)) + last)
        wait = erlang_c_wait(np.array([load * 2.0]), 2.0, np.array([n]))[0]
        assert wait == pytest.approx(probability / (2.0 * (n - load)), rel=1e-9)
    assert erlang_c_wait(np.array([1.0, 5.0, 0.0]), 1.0, np.array([1, 3, 0])).tolist() == [math.inf, math.inf, 0.0]


@given(st.integers(-5, 40), st.integers(0, 30), st.integers(0, 3))
def test_guard_respects_bounds_and_steps(desired, total, left):
    world = Environment(
        tick_seconds=60, service_rate_rps=1, min_servers=1, max_servers=20, max_step_up=4, max_step_down=3
    )
    allowed = guard(desired, total, left, world)
    if left:
        assert allowed == total
    else:
        assert 1 <= allowed <= 20
        assert allowed <= max(total + 4, 1) and allowed >= min(total - 3, 20)


@pytest.mark.parametrize("values", [[1.0], [1.0, -1.0, 2.0], [1.0, math.nan, 2.0]])
def test_bad_demand_is_refused(values):
    with pytest.raises(SchemaError, match="demand"):
        simulate(trace(values), Static(1), Environment(tick_seconds=60, service_rate_rps=1))


def test_a_wrong_tick_is_refused():
    with pytest.raises(SchemaError, match="tick of 30"):
        simulate(trace([1.0, 2.0]), Static(1), Environment(tick_seconds=30, service_rate_rps=1))


def test_demand_with_a_gap_is_refused():
    index = pd.date_range("2026-01-01", periods=30, freq="60s", tz="UTC")
    world = Environment(tick_seconds=60, service_rate_rps=1.0)
    with pytest.raises(SchemaError, match="changes after 2026-01-01 00:09"):
        simulate(pd.Series(1.0, index=index.delete(slice(10, 20))), Static(1), world)
