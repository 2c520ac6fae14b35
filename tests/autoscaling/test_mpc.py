"""Stochastic MPC against every open-loop plan, the newsvendor, the clairvoyant optimum, and laws of causality."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from support.autoscaling import Environment, Newsvendor, Observation, simulate
from support.autoscaling.mpc import StochasticMPC, plan
from support.autoscaling.oracle import optimum
from support.autoscaling.stage_costs import expected_stage_costs, shortage_probabilities, spread_regret, tail_scale
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

ROUNDING = 1e-9  # USD
LEVELS = np.array([0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995])


def minute_world(**changes):
    """One server completes one request a tick and costs 1 USD a tick."""
    plain = {"tick_seconds": 60, "service_rate_rps": 1 / 60, "min_servers": 0, "max_servers": 4,
             "price_server_hour_usd": 60.0, "price_drop_usd": 3.0}  # fmt: skip
    return Environment(**(plain | changes))


def rolling(quantiles, *, levels=LEVELS, lag=0):
    quantiles = np.asarray(quantiles, dtype=float)
    index = pd.date_range("2026-01-01", periods=len(quantiles), freq="60s", tz="UTC")
    return RollingQuantiles(index, levels, quantiles, quantiles.mean(axis=2), "drawn", lag)


def random_quantiles(rng, *shape, most=6.0):
    return np.sort(rng.uniform(0, most, (*shape, len(LEVELS))), axis=-1)


def literal(paths, world, pipeline, active, cooldown_left):
    """Least expected cost over every sequence of changes, and the first changes that reach it, server by server."""
    d, c, horizon = world.boot_delay_ticks, world.price_server_tick_usd, paths.shape[1]
    short = np.stack([np.maximum(paths - m * world.capacity_per_tick, 0).mean(axis=0) for m in range(9)]).tolist()

    def least(t, ready, blocked, leaving):
        if t == horizon:
            return 0.0, set()
        free = t >= blocked and t % world.control_every_ticks == 0
        best, firsts = math.inf, set()
        for total in range(world.min_servers, world.max_servers + 1) if free else [len(ready)]:
            change = total - len(ready)
            if change > (world.max_step_up or 99) or -change > (world.max_step_down or 99):
                continue
            after, gone = sorted(ready), list(leaving)
            for _ in range(-change):
                if after.pop() < t:  # it served: it drains
                    gone.append(t + world.drain_ticks)
            after += [t + d] * change
            bill = c * (len(after) + sum(end > t for end in gone))
            bill += world.price_drop_usd * short[sum(s <= t for s in after)][t]
            bill += world.price_start_usd * max(change, 0) + world.price_stop_usd * max(-change, 0)
            until = t + 1 + world.cooldown_ticks if change else blocked
            cost = bill + least(t + 1, after, until, gone)[0]
            if cost < best - ROUNDING:
                best, firsts = cost, set()
            if cost < best + ROUNDING:
                firsts.add(change)
        return best, firsts

    ready = [-1] * active + [d - age for age, count in pipeline for _ in range(count)]
    return least(0, ready, cooldown_left, [])


def tiny(rng, horizon, **fixed):
    def pick(*choices):
        return choices[rng.integers(len(choices))]

    world = minute_world(
        boot_delay_ticks=pick(0, 1, 2, 3), cooldown_ticks=pick(0, 1, 2), min_servers=pick(0, 0, 1),
        max_servers=pick(2, 3), max_step_up=pick(None, None, 1), max_step_down=pick(None, None, 1),
        price_start_usd=pick(0.0, 0.3, 2.0), price_stop_usd=pick(0.0, 0.5), price_drop_usd=pick(0.7, 3.0, 20.0),
        **fixed,
    )  # fmt: skip
    delay = world.boot_delay_ticks
    total = int(rng.integers(world.min_servers, world.max_servers + 1))
    booting = int(rng.integers(0, total - world.min_servers + 1)) if delay else 0
    ages = np.sort(rng.integers(1, delay + 1, booting))[::-1] if booting else []
    pipeline = tuple((int(age), int((ages == age).sum())) for age in dict.fromkeys(ages))
    left = int(rng.integers(0, world.cooldown_ticks + 1))
    paths = rng.uniform(0, world.max_servers + 1, (4, max(horizon, delay + 1)))
    return world, paths, pipeline, total - booting, left


@pytest.mark.parametrize("extra", [{}, {"control_every_ticks": 2}])
@pytest.mark.parametrize("seed", range(4))
def test_plan_equals_every_open_loop_plan(seed, extra):
    rng = np.random.default_rng(seed)
    changed = 0
    for _ in range(60):  # 480 in all
        world, paths, pipeline, active, left = tiny(rng, 5, **extra)
        costs = expected_stage_costs(paths, world, np.arange(world.max_servers + 1))
        found = plan(costs, world, smallest=0, active=active, pipeline=pipeline, cooldown_left=left)
        cost, firsts = literal(paths, world, pipeline, active, left)
        case = (world, paths.tolist(), pipeline, active, left)
        assert found.cost_usd == pytest.approx(cost, abs=ROUNDING), case
        assert found.change in firsts, case
        changed += found.change != 0
    assert changed > 10


def test_drain_of_active_servers_equals_every_open_loop_plan():
    rng = np.random.default_rng(11)
    for _ in range(60):
        world, paths, _, active, left = tiny(rng, 5, drain_ticks=2)
        costs = expected_stage_costs(paths, world, np.arange(world.max_servers + 1))
        found = plan(costs, world, smallest=0, active=active, cooldown_left=left)
        cost, firsts = literal(paths, world, (), active, left)
        assert found.cost_usd == pytest.approx(cost, abs=ROUNDING)
        assert found.change in firsts


def test_stage_costs_integrate_the_quantile_function():
    rng = np.random.default_rng(3)
    world, servers = minute_world(), np.arange(8)
    quantiles = random_quantiles(rng, 3)
    costs = expected_stage_costs(quantiles, world, servers, levels=LEVELS)
    for stage in range(3):
        for m in servers:
            short = integrate.quad(
                lambda u, q=quantiles[stage], m=m: max(np.interp(u, LEVELS, q) - m, 0.0), 0, 1,
                points=[*LEVELS, float(np.interp(m, quantiles[stage], LEVELS))], limit=200,
            )[0]  # fmt: skip
            assert costs[stage, m] == pytest.approx(m + 3.0 * short, abs=1e-7)


def test_stage_costs_of_quantiles_and_of_paths_agree():
    rng = np.random.default_rng(5)
    world, servers, n_draw = minute_world(), np.arange(6), 20_000
    quantiles = random_quantiles(rng, 2)
    uniform = (rng.permutation(n_draw) + 0.5) / n_draw  # every stratum once: the error is far below Monte Carlo's
    paths = np.stack([np.interp(uniform, LEVELS, q) for q in quantiles], axis=1)
    exact = expected_stage_costs(quantiles, world, servers, levels=LEVELS)
    assert np.allclose(expected_stage_costs(paths, world, servers), exact, atol=3.0 * 6.0 / n_draw)


def test_chances_of_a_shortage_are_those_of_an_exponential_demand():
    levels = 1 - np.geomspace(0.999, 1e-4, 2000)
    law = stats.expon(scale=np.array([[2.0], [7.0]]))
    sizes = np.array([0.5, 3.0, 10.0, 40.0, 90.0])  # the last ones far beyond the highest quantile of the first stage
    chance = shortage_probabilities(law.ppf(levels), levels, sizes)
    assert chance == pytest.approx(law.sf(sizes), rel=1e-4, abs=1e-12)
    assert tail_scale(law.ppf(levels), levels) == pytest.approx([2.0, 7.0])
    knots = shortage_probabilities(law.ppf(levels), levels, law.ppf(levels)[0])
    assert knots[0] == pytest.approx(1 - levels)


def test_chances_of_a_shortage_where_quantiles_are_equal():
    tied = np.array([[3.0, 3.0, 5.0, 5.0, 5.0]])
    chance = shortage_probabilities(tied, np.array([0.1, 0.4, 0.8, 0.9, 0.99]), np.array([2.9, 3.0, 4.0, 5.0, 6.0]))
    assert chance[0] == pytest.approx([1.0, 0.6, 0.4, 0.0, 0.0])


def test_a_sure_demand_needs_no_second_server():
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, price_drop_usd=0.01)
    levels = np.array([0.5, 0.9, 0.99])
    assert shortage_probabilities(np.full((1, 3), 60.0), levels, np.array([60.0, 59.9])).tolist() == [[0.0, 1.0]]
    times = pd.date_range("2026-01-01", periods=5, freq="60s", tz="UTC")
    sure = RollingQuantiles(times, levels, np.full((5, 2, 3), 60.0), np.full((5, 2), 60.0), "sure", 0)
    run = simulate(
        pd.Series(60.0, index=times), StochasticMPC(price_bad_tick_usd=1.0), world, forecast=sure, initial_servers=2
    )
    assert run.ticks["servers"].iloc[-1] == 1


def seen_at(tick, row_world, *, active, demand):
    known = demand[:tick]
    return Observation(tick, tick, active, 0, 0, known, known, np.zeros_like(known))


@pytest.mark.parametrize("worth", [2.0, 4.0, 60.0])
def test_the_announced_regret_of_uniform_demand_is_the_fractile(worth):
    world = Environment(
        tick_seconds=1, service_rate_rps=1, price_server_hour_usd=3600.0, price_drop_usd=worth, min_servers=0,
        max_servers=10**6,
    )  # fmt: skip
    levels = np.linspace(0.0005, 0.9995, 200)
    found = spread_regret(np.outer([1000.0, 3000.0], levels), levels, world)
    assert found == pytest.approx(1 - 1 / worth, abs=2e-3)  # c A (1 + f) / 2 over c A / 2, less 1


def test_the_announced_regret_is_that_of_drawn_demand():
    rng = np.random.default_rng(3)
    world = Environment(
        tick_seconds=60, service_rate_rps=1 / 6, price_server_hour_usd=0.6, price_drop_usd=0.01, max_servers=9
    )
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    rows = np.sort(rng.gamma(2.0, 20.0, (6, 5)), axis=1)
    draws = np.stack([np.interp(rng.random(100_000), levels, row) for row in rows])
    bill = lambda work, n: 0.01 * n + 0.01 * np.maximum(work - 10 * n, 0)  # noqa: E731  USD a tick with n servers
    paid = sum(min(bill(row, n).mean() for n in range(1, 10)) for row in draws)
    known = np.stack([bill(draws, n) for n in range(1, 10)]).min(axis=0).mean(axis=1).sum()
    assert spread_regret(rows, levels, world) == pytest.approx(paid / known - 1, abs=4e-3)
    assert spread_regret(np.full((4, 5), 37.0), levels, world) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("least", [0, 1, 5])
def test_less_demand_than_the_least_fleet_announces_nothing(least):
    world = Environment(tick_seconds=60, service_rate_rps=1.0, min_servers=least, max_servers=9)
    assert spread_regret(np.zeros((3, 2)), np.array([0.1, 0.9]), world) == pytest.approx(0.0, abs=1e-12)


def test_without_friction_it_is_the_newsvendor():
    rng = np.random.default_rng(7)
    world = minute_world(boot_delay_ticks=0, max_servers=9, price_drop_usd=8.0)
    forecast = rolling(random_quantiles(rng, 300, 3, most=8.0))
    mpc, rule = StochasticMPC(), Newsvendor()
    state, wanted = mpc.prepare(world, forecast), rule.prepare(world, forecast)
    exact = expected_stage_costs(forecast.quantiles[:, 0], world, np.arange(10), levels=LEVELS).argmin(axis=1)
    for row in range(300):
        seen = seen_at(row, world, active=int(rng.integers(0, 10)), demand=np.zeros(300))
        _, total, _ = mpc.act(state, seen)
        _, ceiling, _ = rule.act(wanted, seen)
        assert total == exact[row]
        assert ceiling - 1 <= total <= ceiling  # whole servers: the rule rounds up, the integral may round down


@pytest.mark.parametrize("price", [3.0, 40.0, 4000.0])
def test_a_price_of_bad_ticks_buys_the_same_density_everywhere(price):
    # Without friction, and with drops for free, the least m + price exp(-m / scale) is at scale log(price / scale).
    levels = 1 - np.geomspace(0.999, 1e-4, 2000)
    scales = np.array([1.0, 2.0, 6.0, 15.0])
    quantiles = scales[:, None, None] * stats.expon.ppf(levels) * np.ones((1, 3, 1))
    world = minute_world(boot_delay_ticks=0, price_drop_usd=0.0, max_servers=1000)
    policy = StochasticMPC(price_bad_tick_usd=price)
    state = policy.prepare(world, rolling(quantiles, levels=levels))
    for row, scale in enumerate(scales):
        _, total, _ = policy.act(state, seen_at(row, world, active=2, demand=np.zeros(4)))
        bill = np.arange(400) + price * stats.expon.sf(np.arange(400), scale=scale)
        assert total == bill.argmin()
        assert abs(total - max(scale * np.log(price / scale), 0.0)) <= 1


def test_a_price_of_bad_ticks_only_adds_servers_and_none_takes_nothing_away():
    rng = np.random.default_rng(11)
    world = minute_world(boot_delay_ticks=0, max_servers=30, price_drop_usd=4.0)
    forecast = rolling(random_quantiles(rng, 200, 3))
    policies = [StochasticMPC(price_bad_tick_usd=price) for price in (0.0, 1.0, 20.0, 500.0)]
    states = [policy.prepare(world, forecast) for policy in policies]
    for row in range(200):
        seen = seen_at(row, world, active=int(rng.integers(0, 8)), demand=np.zeros(200))
        totals = [policy.act(state, seen)[1] for policy, state in zip(policies, states, strict=True)]
        assert totals == sorted(totals)
        assert totals[0] == StochasticMPC().act(states[0], seen)[1]
    point = rolling(np.ones((4, 3, 1)), levels=np.array([0.5]))
    assert StochasticMPC().prepare(world, point) is not None
    with pytest.raises(SchemaError, match=r"level 0\.5 only"):
        StochasticMPC(price_bad_tick_usd=1.0).prepare(world, point)
    with pytest.raises(SchemaError, match="price_bad_tick_usd is -1"):
        StochasticMPC(price_bad_tick_usd=-1.0).prepare(world, forecast)


def test_the_future_does_not_change_the_action():
    rng = np.random.default_rng(9)
    world = minute_world(boot_delay_ticks=2, cooldown_ticks=1, max_servers=8)
    quantiles, demand = random_quantiles(rng, 60, 8), rng.uniform(0, 6, 60)
    other, later = quantiles.copy(), demand.copy()
    other[30:], later[30:] = random_quantiles(rng, 30, 8), rng.uniform(0, 6, 30)
    index = rolling(quantiles).timestamps
    one, two = (
        simulate(pd.Series(work, index=index), StochasticMPC(), world, forecast=rolling(q))
        for work, q in ((demand, quantiles), (later, other))
    )
    columns = ["started", "stopped", "reason"]
    assert one.ticks[columns].iloc[:30].equals(two.ticks[columns].iloc[:30])
    assert not one.ticks[columns].equals(two.ticks[columns])


def point_forecast(demand, horizon):
    """The truth, as a point mass; after the end nothing arrives."""
    padded = np.r_[demand, np.zeros(horizon)]
    ahead = padded[np.arange(len(demand))[:, None] + np.arange(horizon)]
    return rolling(np.repeat(ahead[..., None], 2, axis=2), levels=np.array([0.1, 0.9]))


def test_with_the_whole_future_it_is_the_clairvoyant_optimum():
    rng = np.random.default_rng(13)
    for _ in range(100):
        world = minute_world(
            boot_delay_ticks=int(rng.integers(0, 4)), cooldown_ticks=int(rng.integers(0, 4)), min_servers=1,
            max_servers=6, price_start_usd=float(rng.choice([0.0, 1.0, 4.0])),
            price_stop_usd=float(rng.choice([0.0, 0.5])),
        )  # fmt: skip
        # The quiet end lets both shrink to the minimum before the trace ends, so that no end effect is left.
        demand = np.r_[rng.integers(0, 7, 24), np.zeros(8)].astype(float)
        forecast = point_forecast(demand, len(demand))
        work = pd.Series(demand, index=forecast.timestamps)
        run = simulate(work, StochasticMPC(), world, forecast=forecast)
        assert run.cost_usd == pytest.approx(optimum(work, world).cost_usd, abs=ROUNDING)


def test_a_short_horizon_still_equals_the_optimum_of_a_rise_in_sight():
    world = minute_world(boot_delay_ticks=3, min_servers=1, max_servers=6, price_start_usd=1.0)
    demand = np.r_[np.ones(10), np.full(30, 5.0)]
    forecast = point_forecast(demand, 8)
    run = simulate(pd.Series(demand, index=forecast.timestamps), StochasticMPC(), world, forecast=forecast)
    assert run.ticks.dropped.sum() == 0
    assert run.ticks.started.to_numpy().nonzero()[0].tolist() == [7]  # serves from tick 10 on, not a tick before


@pytest.mark.parametrize("dip", [1, 3, 5, 8])
def test_servers_are_kept_through_a_dip_shorter_than_their_start_costs(dip):
    world = minute_world(boot_delay_ticks=1, max_servers=9, price_start_usd=3.0)
    demand = np.r_[np.full(8, 5.0), np.full(dip, 2.0), np.full(20, 5.0)]
    forecast = point_forecast(demand, 20)
    run = simulate(pd.Series(demand, index=forecast.timestamps), StochasticMPC(), world, forecast=forecast)
    assert run.ticks.dropped.sum() == 0
    kept = run.ticks.servers.iloc[8 : 8 + dip].min() == 5
    assert kept == (dip < 3 + 1)  # a tick costs 1, a start 3 and a tick of booting


def test_backlog_adds_servers():
    world = minute_world(boot_delay_ticks=1, max_servers=9, queue_limit=50.0, price_drop_usd=8.0)
    forecast = rolling(np.full((20, 8, 7), 3.0))
    policy, calm = StochasticMPC(), np.zeros(5)
    state = policy.prepare(world, forecast)
    crowded = Observation(5, 5, 3, 0, 0, calm + 3, calm + 3, calm + 6.0)
    quiet = Observation(5, 5, 3, 0, 0, calm + 3, calm + 3, calm)
    assert policy.act(state, quiet)[1] == 3
    # Six wait, the present fleet carries no more than what arrives: three more in each of the ticks 1 and 2.
    assert policy.act(state, crowded)[1] == 6
    assert policy.act(policy.prepare(replace(world, queue_limit=0.0), forecast), crowded)[1] == 3


@pytest.mark.parametrize("horizon", [None, 2, 9])
def test_says_what_is_missing(horizon):
    world = minute_world(boot_delay_ticks=2)
    short = rolling(np.ones((4, 2, 7))) if horizon is None else rolling(np.ones((4, 8, 7)))
    with pytest.raises(SchemaError, match="boot delay of 2"):
        StochasticMPC(horizon_ticks=horizon).prepare(world, short)
    with pytest.raises(SchemaError, match="needs a forecast"):
        StochasticMPC().prepare(world, None)


def test_refuses_costs_that_do_not_hold_the_fleet():
    world = minute_world(boot_delay_ticks=1)
    with pytest.raises(SchemaError, match="needed are more than 1 ticks"):
        plan(np.ones((3, 2)), world, smallest=0, active=1, pipeline=((1, 2),))
    with pytest.raises(SchemaError, match="levels"):
        expected_stage_costs(np.ones((3, 2)), world, np.arange(2), levels=np.array([0.9, 0.1]))
    with pytest.raises(SchemaError, match="two-dimensional"):
        expected_stage_costs(np.ones(3), world, np.arange(2))


def test_every_reason_is_said_in_words():
    world = minute_world(boot_delay_ticks=2, cooldown_ticks=2, max_servers=6, price_start_usd=1.0)
    demand = np.r_[np.ones(8), np.full(8, 5.0), np.ones(8)]
    forecast = point_forecast(demand, 8)
    run = simulate(pd.Series(demand, index=forecast.timestamps), StochasticMPC(), world, forecast=forecast)
    said = " / ".join(run.ticks.reason.unique())
    for part in ("order 4, to serve in 2 ticks", "stop 4 now", "cooldown: 2 more", "no change pays", "hold, 5 servers"):
        assert part in said


def test_a_fleet_that_failed_to_boot_is_brought_back_to_the_minimum():
    world = minute_world(boot_delay_ticks=2, min_servers=3, max_servers=6, boot_failure_prob=0.2)
    forecast = rolling(np.zeros((4, 8, 7)))
    policy = StochasticMPC()
    for active, booting in ((0, 0), (1, 1), (3, 0)):
        seen = Observation(2, 2, active, booting, 0, *np.zeros((3, 2)), pipeline=((1, booting),) if booting else ())
        assert policy.act(policy.prepare(world, forecast), seen)[1] == 3


def test_the_announced_regret_sees_what_lies_at_the_highest_level():
    world = Environment(
        tick_seconds=1, service_rate_rps=1, price_server_hour_usd=3600.0, price_drop_usd=60.0, min_servers=0,
        max_servers=10**6,
    )  # fmt: skip
    levels, row = np.array([0.5, 0.9, 0.999, 0.9995]), np.array([0.0, 0.0, 0.0, 1000.0])
    # a demand above 0 with probability 0.001: half of it on the line from 0 to 1000, half at 1000
    known = 0.0005 * 500 + 0.0005 * 1000
    sizes = np.arange(1001)
    short = 0.0005 * (1000 - sizes) ** 2 / 2000 + 0.0005 * (1000 - sizes)
    assert spread_regret(row[None], levels, world) == pytest.approx((sizes + 60 * short).min() / known - 1, rel=1e-3)
