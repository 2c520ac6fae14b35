"""Failing boots, draining, quota, patience, control ticks and billing in blocks, against servers one by one."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, Reactive, Static, simulate
from support.autoscaling.fleet import BootDraws
from support.autoscaling.rules import Plan
from support.autoscaling.simulate import serve_by_age
from support.errors import SchemaError


def trace(values, tick=60):
    index = pd.date_range("2026-01-01", periods=len(values), freq=f"{tick}s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


@dataclass(eq=False)
class Server:
    """One server with its whole life."""

    placed: int
    ready: float  # infinite: never
    until: float = np.inf  # stopped, but billed until then
    stopped: bool = False


def one_by_one(demand, wanted, world, first, boots):
    """Servers as objects, waiting work as (tick, amount) pairs; written from the specification."""
    servers = [Server(0, -1) for _ in range(first)]
    waiting, last_change, rows = [], -(10**6), []
    mu = world.service_rate_rps * world.tick_seconds
    for t, arriving in enumerate(demand):
        servers = [s for s in servers if not s.stopped or s.until > t]
        mine = [s for s in servers if not s.stopped]
        ask = len(mine)
        if t % world.control_every_ticks == 0 and t - last_change > world.cooldown_ticks:
            ask = wanted[t]
            ask = min(ask, len(mine) + (world.max_step_up or 10**6))
            ask = max(ask, len(mine) - (world.max_step_down or 10**6))
            ask = max(world.min_servers, min(world.max_servers, ask))
            if world.quota_servers is not None and ask > len(mine):
                ask = max(len(mine), min(ask, world.quota_servers - (len(servers) - len(mine))))
        up, down = max(0, ask - len(mine)), max(0, len(mine) - ask)
        last_change = t if up or down else last_change
        for k in range(up):
            fails = boots.failures[t, k + 1] > boots.failures[t, k]
            servers.append(Server(t, np.inf if fails else t + boots.delays[t]))
        for _ in range(down):
            alive = [s for s in servers if not s.stopped]
            booting = [s for s in alive if s.ready >= t]
            if booting:
                youngest = max(s.placed for s in booting)
                servers.remove(min((s for s in booting if s.placed == youngest), key=lambda s: s.ready))
            else:  # the one whose paid block ends first
                leaver = min(alive, key=lambda s: (s.placed - t) % world.billing_block_ticks)
                leaver.stopped, leaver.until = True, t + world.drain_ticks
        given_up = [
            s for s in servers if not s.stopped and s.ready == np.inf and t - s.placed >= world.boot_timeout_ticks
        ]
        servers = [s for s in servers if s not in given_up and not (s.stopped and s.until <= t)]
        active = sum(s.ready <= t and not s.stopped for s in servers)
        room, served, abandoned, dropped = active * mu, 0.0, 0.0, 0.0
        waiting, kept, places = [*waiting, (t, arriving)], [], world.queue_limit
        for came, amount in waiting:
            done = min(amount, room)
            room, served, rest = room - done, served + done, amount - done
            if world.queue_patience_ticks is not None and t - came >= world.queue_patience_ticks:
                abandoned += rest
                continue
            stays = min(rest, places)
            places, dropped = places - stays, dropped + rest - stays
            if stays > 0:
                kept.append((came, stays))
        waiting = kept
        block = world.billing_block_ticks
        billed = block * sum((t - s.placed) % block == 0 for s in servers)
        booting = sum(s.ready > t and not s.stopped for s in servers)
        draining = sum(s.stopped for s in servers)
        queue = sum(amount for _, amount in waiting)
        rows.append((active, booting, draining, up, down, len(given_up), billed, served, dropped, abandoned, queue))
    return np.array(rows, dtype=float)


COLUMNS = [
    "servers", "booting", "draining", "started", "stopped", "failed", "billed", "served", "dropped", "abandoned",
    "queue",
]  # fmt: skip


@st.composite
def instances(draw):
    n = draw(st.integers(2, 25))
    world = Environment(
        tick_seconds=60.0, service_rate_rps=draw(st.floats(0.1, 3)), boot_delay_ticks=draw(st.integers(0, 5)),
        cooldown_ticks=draw(st.integers(0, 3)), min_servers=draw(st.integers(0, 2)), max_servers=9,
        queue_limit=draw(st.sampled_from([0.0, 7.5, 300.0])), max_step_up=draw(st.none() | st.integers(1, 4)),
        max_step_down=draw(st.none() | st.integers(1, 4)), boot_failure_prob=draw(st.sampled_from([0.0, 0.4])),
        boot_timeout_ticks=draw(st.integers(1, 6)), queue_patience_ticks=draw(st.none() | st.integers(0, 3)),
        drain_ticks=draw(st.integers(0, 4)), quota_servers=draw(st.none() | st.integers(2, 9)),
        control_every_ticks=draw(st.integers(1, 3)), billing_block_ticks=draw(st.sampled_from([1, 1, 3, 7])),
        boot_delay_sigma=draw(st.sampled_from([0.0, 0.6])), price_start_usd=0.3, price_stop_usd=0.2,
        price_wait_hour_usd=0.7, price_drop_usd=0.01,
    )  # fmt: skip
    demand = draw(st.lists(st.floats(0, 10 * world.capacity_per_tick), min_size=n, max_size=n))
    wanted = draw(st.lists(st.integers(-2, 12), min_size=n, max_size=n))
    most = min(9, world.quota_servers or 9)
    first = draw(st.integers(world.min_servers, max(most, world.min_servers)))
    return world, demand, wanted, first, draw(st.integers(0, 10**6))


def play(instance):
    world, demand, wanted, first, seed = instance
    boots = BootDraws.draw(world, len(demand), rng=np.random.default_rng(seed))
    return simulate(trace(demand), Plan(np.array(wanted)), world, initial_servers=first, boots=boots), boots


@settings(max_examples=200, deadline=None)
@given(instances())
def test_every_tick_equals_servers_and_callers_one_by_one(instance):
    world, demand, wanted, first, _ = instance
    run, boots = play(instance)
    rows = one_by_one(demand, wanted, world, first, boots)
    np.testing.assert_allclose(run.ticks[COLUMNS].to_numpy(), rows, rtol=1e-9, atol=1e-7)


@settings(max_examples=100, deadline=None)
@given(instances())
def test_invariants_of_every_feature(instance):
    world = instance[0]
    run, _ = play(instance)
    ticks, tiny = run.ticks, 1e-9 * (1 + run.ticks["arrivals"].sum())
    flow = ticks[["served", "dropped", "abandoned"]].sum(axis=1) + ticks["queue"].diff().fillna(ticks["queue"].iloc[0])
    assert np.abs(ticks["arrivals"] - flow).max() <= tiny  # arrivals = served + lost + what the queue grew
    assert (ticks[COLUMNS] >= -tiny).to_numpy().all()
    total = ticks["servers"] + ticks["booting"]
    assert total.max() <= world.max_servers
    grows = ticks["started"] > 0
    if world.quota_servers is not None:  # a start never takes the account beyond its quota
        assert (total + ticks["draining"])[grows].max() <= world.quota_servers or not grows.any()
    assert ticks["queue"].max() <= world.queue_limit + tiny
    assert run.cost_usd == pytest.approx(ticks["cost_usd"].sum()) == pytest.approx(sum(run.costs.values()))
    assert run.costs["servers"] == pytest.approx(0.12 / 60 * ticks["billed"].sum())
    changes = np.flatnonzero(ticks["started"] + ticks["stopped"])
    assert (np.diff(changes) > world.cooldown_ticks).all() and (changes % world.control_every_ticks == 0).all()
    if world.queue_patience_ticks == 0:
        assert (ticks["queue"] == 0).all()
    if not world.boot_failure_prob:
        assert ticks["failed"].sum() == 0


@settings(max_examples=40, deadline=None)
@given(instances(), st.integers(1, 40))
def test_an_idle_trace_costs_the_minimum_fleet(instance, n):
    world = replace(instance[0], boot_failure_prob=0.0, boot_delay_sigma=0.0, billing_block_ticks=1)
    run = simulate(trace(np.zeros(n + 1)), Reactive(0.7), world, initial_servers=world.min_servers)
    assert run.cost_usd == pytest.approx((n + 1) * world.min_servers * world.price_server_tick_usd)
    assert (run.ticks["wait_seconds"] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 5), st.floats(0, 12), st.lists(st.integers(0, 9), min_size=2, max_size=12), st.integers(0, 3),
    st.integers(0, 2), st.sampled_from([0.0, 90.0]),
)  # fmt: skip
def test_a_tick_twice_as_long_leaves_the_rates_unchanged(rate, load, wanted, delay, drain, limit):
    def world(tick, times):
        return Environment(
            tick_seconds=tick, service_rate_rps=rate, boot_delay_ticks=delay * times, drain_ticks=drain * times,
            cooldown_ticks=0, min_servers=0, queue_limit=limit, price_start_usd=0.1, price_stop_usd=0.2,
        )  # fmt: skip

    n = len(wanted)
    long = simulate(trace(np.full(n, 120 * rate * load), 120), Plan(np.array(wanted)), world(120, 1), initial_servers=2)
    short = simulate(
        trace(np.full(2 * n, 60 * rate * load)), Plan(np.repeat(wanted, 2)), world(60, 2), initial_servers=2
    )
    for part in ("servers", "starts", "stops", "drops"):
        assert long.costs[part] == pytest.approx(short.costs[part], rel=1e-9, abs=1e-9)
    assert long.ticks["served"].sum() == pytest.approx(short.ticks["served"].sum(), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(long.ticks["queue"], short.ticks["queue"].iloc[1::2], rtol=1e-9, atol=1e-6)


def test_a_failed_server_is_paid_until_it_is_given_up():
    world = Environment(
        tick_seconds=60, service_rate_rps=1, boot_delay_ticks=1, boot_failure_prob=0.5, boot_timeout_ticks=4,
        min_servers=0, max_servers=2,
    )  # fmt: skip
    boots = BootDraws(np.ones(8, dtype=int), np.tile([0, 0, 1], (8, 1)))  # the second server of an order never comes
    run = simulate(trace(np.full(8, 60.0)), Plan(np.full(8, 2)), world, initial_servers=0, boots=boots)
    assert run.ticks["servers"].tolist() == [0, 1, 1, 1, 1, 1, 2, 2]  # ordered again at tick 5, as one server
    assert run.ticks["failed"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert run.ticks["billed"].tolist() == [2, 2, 2, 2, 1, 2, 2, 2]


def test_the_share_of_failed_servers_is_the_probability():
    world = Environment(tick_seconds=60, service_rate_rps=1, boot_failure_prob=0.2, max_servers=50, min_servers=0)
    failed = BootDraws.draw(world, 400, rng=np.random.default_rng(1)).failures
    assert abs(failed[:, -1].mean() / 50 - 0.2) < 4 * (0.16 / 20_000) ** 0.5
    drawn = [
        simulate(trace(np.ones(11)), Plan(np.full(11, 50)), world, initial_servers=0, rng=np.random.default_rng(s))
        for s in range(60)
    ]  # one order each: what failed is given up in the last tick
    share = np.mean([run.ticks["failed"].sum() / run.ticks["started"].sum() for run in drawn])
    assert abs(share - 0.2) < 4 * (0.16 / 3000) ** 0.5
    with pytest.raises(SchemaError, match="boot_failure_prob"):
        simulate(trace(np.ones(9)), Static(1), world)


def test_a_draining_server_is_billed_and_counts_against_the_quota():
    world = Environment(tick_seconds=60, service_rate_rps=1, drain_ticks=3, quota_servers=4, boot_delay_ticks=0)
    run = simulate(trace(np.ones(6)), Plan(np.array([4, 2, 4, 4, 4, 4])), world, initial_servers=4)
    assert run.ticks["servers"].tolist() == [4, 2, 2, 2, 4, 4]
    assert run.ticks["draining"].tolist() == [0, 2, 2, 2, 0, 0]
    assert run.ticks["billed"].tolist() == [4, 4, 4, 4, 4, 4]


def test_started_blocks_are_paid_in_full():
    world = Environment(tick_seconds=60, service_rate_rps=1, boot_delay_ticks=0, billing_block_ticks=4)
    run = simulate(trace(np.ones(10)), Plan(np.array([1, 2, 1, 1, 1, 1, 1, 1, 1, 1])), world, initial_servers=1)
    assert run.ticks["billed"].tolist() == [4, 4, 0, 0, 0, 4, 0, 0, 0, 4]  # the older one leaves: it is due sooner


def test_patience_by_hand():
    world = Environment(tick_seconds=60, service_rate_rps=1, queue_patience_ticks=1, queue_limit=50.0)
    run = simulate(trace([90.0, 100.0, 0.0, 0.0]), Static(1), world, initial_servers=1)
    assert run.ticks["served"].tolist() == [60.0, 60.0, 50.0, 0.0]  # 30 wait; they go first, then 30 of the 100
    assert run.ticks["queue"].tolist() == [30.0, 50.0, 0.0, 0.0]
    assert run.ticks["dropped"].tolist() == [0.0, 20.0, 0.0, 0.0] and run.ticks["abandoned"].sum() == 0
    roomy = replace(world, queue_limit=500.0)
    long = simulate(trace([90.0, 200.0, 100.0, 0.0]), Static(1), roomy, initial_servers=1)
    assert long.ticks["queue"].tolist() == [30.0, 170.0, 100.0, 0.0]
    assert long.ticks["abandoned"].tolist() == [
        0.0,
        0.0,
        110.0,
        40.0,
    ]  # 60 of the 170 are served in tick 2, the rest left
    assert long.costs["abandoned"] == pytest.approx(150 * world.price_drop_usd)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 500), min_size=2, max_size=30), st.integers(0, 3))
def test_endless_patience_is_the_plain_queue(demand, servers):
    plain = Environment(tick_seconds=60, service_rate_rps=1, queue_limit=200.0, min_servers=0)
    patient = Environment(
        tick_seconds=60, service_rate_rps=1, queue_limit=200.0, min_servers=0, queue_patience_ticks=40
    )
    one, two = (simulate(trace(demand), Static(servers), w, initial_servers=servers).ticks for w in (plain, patient))
    for name in ("served", "dropped", "queue", "wait_seconds"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=6), st.floats(0, 1e4), st.floats(0, 1e4))
def test_serving_by_age_loses_nothing(work, capacity, limit):
    served, abandoned, dropped, waiting = serve_by_age(work, capacity, limit)
    assert served + abandoned + dropped + sum(waiting) == pytest.approx(sum(work))
    assert served == pytest.approx(min(capacity, sum(work)))
    assert len(waiting) == len(work) - 1 and sum(waiting) <= limit * (1 + 1e-12)
    assert all(0 <= kept <= came for kept, came in zip(waiting, work, strict=False))
