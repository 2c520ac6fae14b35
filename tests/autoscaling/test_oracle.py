"""The clairvoyant optimum against plain enumeration, the full-state programme, every policy, and laws of prices."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, Reactive, Static, oracle, simulate
from support.autoscaling.oracle import Schedule, optimum, optimum_costs, regret
from support.autoscaling.oracle_states import full_state_optimum, reachable_states
from support.errors import SchemaError

CENT = 0.01
ROUNDING = 1e-9  # USD


def trace(values):
    index = pd.date_range("2026-01-01", periods=len(values), freq="60s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


def minute_world(**changes):
    """One server completes one request a tick; prices a tick come from prices an hour."""
    hour = {k: 60 * changes.pop(k.replace("_hour", "_tick"), v) for k, v in
            (("price_server_hour_usd", 1.0), ("price_wait_hour_usd", 0.0))}  # fmt: skip
    plain = {"tick_seconds": 60, "service_rate_rps": 1 / 60, "min_servers": 0, "max_servers": 4, "price_drop_usd": 3.0}
    return Environment(**(plain | hour | changes))


def enumerated(demand, world, first, no_reversal=False):
    """The least cost over every sequence of totals, written from the specification: no memory, no pruning."""
    mu, c, n_time = world.service_rate_rps * world.tick_seconds, world.price_server_hour_usd / 60, len(demand)

    def least(t, ready, queue, blocked, leaving, raised):
        """ready: for each server the tick from which it serves."""
        if t == n_time:
            return 0.0
        best = math.inf
        totals = range(world.min_servers, world.max_servers + 1) if t >= blocked else [len(ready)]
        for total in totals if t % world.control_every_ticks == 0 else [len(ready)]:
            change = total - len(ready)
            if change > (world.max_step_up or 99) or -change > (world.max_step_down or 99):
                continue
            if (no_reversal and raised and change < 0) or (total > (world.quota_servers or 99) and change > 0):
                continue
            booting = [s for s in ready if s >= t and world.boot_delay_ticks and s > 0]
            after, gone = sorted(ready), list(leaving)
            for _ in range(-change):
                stopped = after.pop()
                if stopped not in booting:
                    gone.append(t + world.drain_ticks)
            after += [t + world.boot_delay_ticks] * change
            active = sum(s <= t for s in after)
            left = max(queue + demand[t] - active * mu, 0.0)
            waiting = min(left, world.queue_limit)
            bill = c * (len(after) + sum(end > t for end in gone)) + world.price_drop_usd * (left - waiting)
            bill += world.price_start_usd * max(change, 0) + world.price_stop_usd * max(-change, 0)
            bill += world.price_wait_hour_usd / 60 * waiting
            until = t + 1 + world.cooldown_ticks if change else blocked
            best = min(best, bill + least(t + 1, after, waiting, until, gone, change > 0))
        return best

    return least(0, [0] * first, 0.0, 0, [], False)


def tiny(rng, *, most_ticks, most_servers, **fixed):
    """A random world, demand and start; zero prices and every limit are among them."""

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    world = minute_world(
        boot_delay_ticks=pick(0, 1, 2, 3), cooldown_ticks=pick(0, 1, 2, 3), min_servers=pick(0, 0, 1),
        max_servers=int(rng.integers(2, most_servers + 1)), max_step_up=pick(None, None, 1, 2),
        max_step_down=pick(None, None, 1, 2), price_server_tick_usd=pick(0.0, 0.4, 1.0), price_start_usd=pick(0.0, 0.3, 2.0),
        price_stop_usd=pick(0.0, 0.5), price_drop_usd=pick(0.0, 0.7, 3.0, 20.0), **fixed,
    )  # fmt: skip
    work = rng.integers(0, most_servers + 2, int(rng.integers(2, most_ticks + 1))) * pick(1.0, 0.85)
    return world, work, int(rng.integers(world.min_servers, world.max_servers + 1))


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_full_state_programme(seed):
    rng = np.random.default_rng(seed)
    for _ in range(65):  # 260 in all
        world, work, first = tiny(rng, most_ticks=16, most_servers=5)
        best = optimum(trace(work), world, initial_servers=first)
        literal = full_state_optimum(trace(work), world, initial_servers=first)
        assert best.cost_usd == pytest.approx(literal.lower_usd, abs=ROUNDING), (world, work.tolist(), first)
        assert literal.cost_usd == pytest.approx(literal.lower_usd, abs=ROUNDING)
        assert optimum_costs(work, world, initial_servers=first)[0] == pytest.approx(best.cost_usd, abs=ROUNDING)


def test_both_equal_plain_enumeration():
    rng = np.random.default_rng(7)
    for _ in range(30):
        world, work, first = tiny(rng, most_ticks=5, most_servers=3)
        expected = enumerated(work, world, first)
        assert optimum(trace(work), world, initial_servers=first).cost_usd == pytest.approx(expected, abs=ROUNDING)
        literal = full_state_optimum(trace(work), world, initial_servers=first)
        assert literal.cost_usd == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("extra", [{"control_every_ticks": 2}, {"drain_ticks": 2}, {"quota_servers": 2}])
def test_control_ticks_drain_and_quota_equal_enumeration(extra):
    rng = np.random.default_rng(11)
    for _ in range(20):
        world, work, first = tiny(rng, most_ticks=6, most_servers=3, **extra)
        first = min(first, extra.get("quota_servers", first))
        best = optimum(trace(work), world, initial_servers=first)
        expected = enumerated(work, world, first)
        assert best.cost_usd == pytest.approx(expected, abs=ROUNDING), (world, work.tolist(), first)
        assert optimum_costs(work, world, initial_servers=first)[0] == pytest.approx(expected, abs=ROUNDING)


def test_no_stop_directly_after_a_start_equals_enumeration():
    rng = np.random.default_rng(13)
    dearer = 0
    for _ in range(25):
        world, work, first = tiny(rng, most_ticks=5, most_servers=3)
        world = replace(world, max_step_up=1, max_step_down=1, cooldown_ticks=0)
        ruled = full_state_optimum(trace(work), world, initial_servers=first, reversal=False)
        assert ruled.lower_usd == pytest.approx(enumerated(work, world, first, no_reversal=True), abs=ROUNDING)
        dearer += ruled.lower_usd > optimum(trace(work), world, initial_servers=first).cost_usd + ROUNDING
    assert dearer  # the rule binds somewhere, so the test can fail


def test_backlog_in_whole_grid_steps_closes_the_bracket():
    rng = np.random.default_rng(17)
    for _ in range(30):
        world, work, first = tiny(rng, most_ticks=5, most_servers=3, queue_limit=4.0, price_wait_tick_usd=0.5)
        work = np.round(work)
        best = optimum(trace(work), world, initial_servers=first, backlog_levels=4)
        expected = enumerated(work, world, first)
        assert best.cost_usd == pytest.approx(expected, abs=ROUNDING), (world, work.tolist(), first)
        assert best.lower_usd == pytest.approx(expected, abs=ROUNDING)


def test_bracket_holds_the_truth_for_real_valued_backlog_and_narrows():
    rng = np.random.default_rng(19)
    widths = {3: 0.0, 12: 0.0, 96: 0.0}
    for _ in range(25):
        world, work, first = tiny(rng, most_ticks=5, most_servers=3, queue_limit=3.7, price_wait_tick_usd=0.2)
        work = work * rng.uniform(0.3, 1.0, len(work))
        expected = enumerated(work, world, first)
        for levels in widths:
            best = optimum(trace(work), world, initial_servers=first, backlog_levels=levels)
            assert best.lower_usd - ROUNDING <= expected <= best.cost_usd + ROUNDING
            widths[levels] += best.cost_usd - best.lower_usd
    assert widths[3] > widths[12] > widths[96]


worlds = st.builds(
    minute_world,
    boot_delay_ticks=st.integers(0, 6), cooldown_ticks=st.integers(0, 6), min_servers=st.integers(0, 2),
    max_servers=st.integers(3, 9), max_step_up=st.none() | st.integers(1, 4), max_step_down=st.none() | st.integers(1, 4),
    price_server_tick_usd=st.floats(0, 2), price_start_usd=st.floats(0, 3), price_stop_usd=st.floats(0, 3),
    price_drop_usd=st.floats(0, 9), queue_limit=st.sampled_from([0.0, 0.0, 5.5]), price_wait_tick_usd=st.floats(0, 1),
    control_every_ticks=st.integers(1, 3), drain_ticks=st.integers(0, 3),
)  # fmt: skip
demands = st.lists(st.floats(0, 12), min_size=2, max_size=40)


@settings(deadline=None, max_examples=60)
@given(worlds, demands, st.data())
def test_no_policy_is_cheaper(world, work, data):
    demand, first = trace(work), data.draw(st.integers(0, 9))
    best = optimum(demand, world, initial_servers=first, backlog_levels=7)
    script = data.draw(st.lists(st.integers(0, 9), min_size=len(work), max_size=len(work)))
    policies = [Schedule(np.array(script)), Static(3), Reactive(0.7), Reactive(1.0)]
    costs = [simulate(demand, policy, world, initial_servers=first).cost_usd for policy in policies]
    assert best.lower_usd <= min(costs) + ROUNDING
    assert (regret(np.array(costs), best.lower_usd) >= -ROUNDING).all()
    assert best.lower_usd <= best.cost_usd + ROUNDING
    if world.queue_limit == 0:
        assert best.cost_usd <= min(costs) + ROUNDING


@settings(deadline=None, max_examples=40)
@given(worlds, demands, st.sampled_from(["server_hour", "start", "stop", "drop", "wait_hour"]), st.floats(0.1, 5))
def test_dearer_prices_and_more_demand_never_cost_less(world, work, part, more):
    name = f"price_{part}_usd"
    row = np.array(work)
    cost = optimum_costs(row, world, initial_servers=3, backlog_levels=7)[0]
    raised = replace(world, **{name: getattr(world, name) + more})
    assert optimum_costs(row, raised, initial_servers=3, backlog_levels=7)[0] >= cost - ROUNDING
    assert optimum_costs(row + more, world, initial_servers=3, backlog_levels=7)[0] >= cost - ROUNDING
    longer = replace(world, cooldown_ticks=world.cooldown_ticks + 1)
    assert optimum_costs(row, longer, initial_servers=3, backlog_levels=7)[0] >= cost - ROUNDING
    prices = [f"price_{p}_usd" for p in ("server_hour", "start", "stop", "drop", "wait_hour")]
    doubled = replace(world, **{p: 2 * getattr(world, p) for p in prices})
    assert optimum_costs(row, doubled, initial_servers=3, backlog_levels=7)[0] == pytest.approx(2 * cost, abs=1e-6)


def test_the_bill_by_part_is_the_simulators():
    rng = np.random.default_rng(23)
    work = 60 * rng.gamma(20, 0.5, 600)
    world = Environment(tick_seconds=60, service_rate_rps=1.0, cooldown_ticks=3, price_start_usd=0.002, max_servers=40)
    best = optimum(trace(work), world)
    again = simulate(trace(work), best.schedule, world)
    assert best.run.costs == again.costs
    assert sum(again.costs.values()) == pytest.approx(optimum_costs(work, world)[0], abs=CENT / 100)
    assert best.gap_frac == 0 and best.run.policy == "optimum"


def test_blocks_of_choices_change_nothing(monkeypatch):
    work = 60 * np.random.default_rng(29).gamma(9, 0.7, 300)
    world = Environment(tick_seconds=60, service_rate_rps=1.0, cooldown_ticks=2, max_servers=20, drain_ticks=1)
    whole = optimum(trace(work), world)
    monkeypatch.setattr(oracle, "CHOICE_BYTES", 10_000)
    assert np.array_equal(optimum(trace(work), world).schedule.servers, whole.schedule.servers)


def test_cases_that_can_be_done_by_hand():
    free = minute_world(price_server_tick_usd=0.0, price_drop_usd=0.0)
    assert optimum(trace([3, 9, 1]), free, initial_servers=2).cost_usd == 0
    assert optimum(trace([0, 0, 0]), minute_world(), initial_servers=0).cost_usd == 0
    idle = minute_world(min_servers=2)
    assert optimum(trace([0.0] * 7), idle, initial_servers=2).cost_usd == pytest.approx(2 * 7)
    burst = minute_world(boot_delay_ticks=2, price_start_usd=0.5)  # 1 server; 2 more for one tick cost 2 x (3 + 0.5)
    demand = [1, 1, 1, 3, 1, 1]
    assert optimum(trace(demand), replace(burst, price_drop_usd=3.6), initial_servers=1).cost_usd == pytest.approx(
        6 + 7
    )
    assert optimum(trace(demand), replace(burst, price_drop_usd=3.4), initial_servers=1).cost_usd == pytest.approx(
        6 + 6.8
    )
    early = trace([1, 3, 1, 1])  # nobody can serve tick 1: a start at tick 0 serves from tick 2
    assert optimum(early, replace(burst, price_drop_usd=9.0), initial_servers=1).run.costs["drops"] == pytest.approx(18)


def test_the_states_move_as_the_simulator_does():
    world = minute_world(boot_delay_ticks=3, max_servers=4, price_drop_usd=0.0, price_start_usd=0.3, price_stop_usd=0.1)
    asked = np.random.default_rng(37).integers(0, 5, 300)  # orders overlap and are cancelled all the time
    run = simulate(trace(np.ones(300)), Schedule(asked), world, initial_servers=2)
    states, at, serving, cost = reachable_states(world, 2), 0, [], 0.0
    for total in asked:
        serving.append(states.serving[at, total])
        cost += states.cost_usd[at, total]
        at = states.following[at, total]
    assert serving == run.ticks["servers"].tolist()
    assert cost == pytest.approx(run.cost_usd)


def test_dataflow_world_both_ways():
    # Published constants: 0.05 USD a server-minute, 0.20 a change, 5 a GB, 3 min boot, 5 min cooldown, 1.2 MB/min, 1-5.
    world = Environment(
        tick_seconds=60, service_rate_rps=1.2 / 60, price_server_hour_usd=3.0, price_start_usd=0.2, price_stop_usd=0.2,
        price_drop_usd=0.005, boot_delay_ticks=3, cooldown_ticks=5, max_servers=5, max_step_up=1, max_step_down=1,
    )  # fmt: skip
    t = np.arange(1440)
    work = 600 * (1 + 0.8 * np.sin(t / 1440 * 2 * np.pi)) * np.random.default_rng(31).lognormal(0, 0.4, 1440) / 200
    literal = full_state_optimum(trace(work), world, initial_servers=1, reversal=False)
    best = optimum(trace(work), world, initial_servers=1)
    assert literal.cost_usd == pytest.approx(literal.lower_usd) == pytest.approx(best.cost_usd)
    assert len(reachable_states(world, 1).index) < 2250
    assert set(np.abs(np.diff(literal.schedule.servers))) <= {0, 1}


@pytest.mark.parametrize(
    "changes",
    [{"boot_delay_sigma": 0.2}, {"boot_failure_prob": 0.1}, {"billing_block_ticks": 60},
     {"queue_limit": 5.0, "queue_patience_ticks": 2}, {"quota_servers": 3, "drain_ticks": 1}],
)  # fmt: skip
def test_a_world_without_an_exact_optimum_is_refused_by_name(changes):
    with pytest.raises(SchemaError, match="boot_|billing_|queue_patience|drain_ticks"):
        optimum(trace([1, 2]), minute_world(**changes))
    with pytest.raises(SchemaError, match="full-state|exact optimum"):
        full_state_optimum(trace([1, 2]), minute_world(**changes), initial_servers=1)


def test_bad_input_is_refused():
    with pytest.raises(SchemaError, match="finite"):
        optimum(trace([1, np.nan]), minute_world())
    with pytest.raises(SchemaError, match="step of 60 s"):
        optimum(trace([1, 2]), replace(minute_world(), tick_seconds=10))
    with pytest.raises(SchemaError, match="schedule has 2 ticks"):
        simulate(trace([1, 2, 3]), Schedule(np.array([1, 1])), minute_world())
    with pytest.raises(SchemaError, match="backlog_levels"):
        optimum(trace([1, 2]), minute_world(queue_limit=3.0), backlog_levels=0)
    with pytest.raises(SchemaError, match="too many states"):
        optimum_costs(np.full(3, 1e6), minute_world(max_servers=100_000))
    with pytest.raises(SchemaError, match="queue_limit"):
        full_state_optimum(trace([1, 2]), minute_world(queue_limit=2.0), initial_servers=1)
    assert regret(1.0, 0.0) == math.inf and regret(0.0, 0.0) == 0 and regret(1.0, 5e-324) == math.inf
