"""The causal optimum against every decision tree, against closed forms, and between the clairvoyant and all policies."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Newsvendor, Reactive, Static, simulate
from support.autoscaling.oracle import Schedule, optimum_costs
from support.autoscaling.oracle_causal import MarkovDemand, causal_optimum, markov_suite
from support.errors import SchemaError

ROUNDING = 1e-9  # USD
MANY_SIGMA = 4.0


def world_of(**changes):
    plain = {
        "tick_seconds": 60, "service_rate_rps": 1 / 60, "price_server_hour_usd": 60.0, "price_drop_usd": 2.5,
        "min_servers": 0, "max_servers": 2, "boot_delay_ticks": 1, "price_start_usd": 0.2,
    }  # fmt: skip
    return Environment(**(plain | changes))


def random_chain(rng, n_level, top=3.0):
    levels = np.sort(rng.choice(np.arange(0, 2 * top + 1) / 2, n_level, replace=False))
    return MarkovDemand(levels, rng.dirichlet(np.ones(n_level), n_level), rng.dirichlet(np.ones(n_level)))


def paths_of(chain, n_time):
    """Every path of levels and its probability."""
    for path in itertools.product(range(len(chain.levels)), repeat=n_time):
        odds = chain.initial[path[0]]
        for a, b in itertools.pairwise(path):
            odds *= chain.transition[a, b]
        yield path, odds


def trace(values):
    return pd.Series(
        np.asarray(values, float), index=pd.date_range("2026-01-01", periods=len(values), freq="60s", tz="UTC")
    )


def bill(demand, asked, world, first):
    """Cost of asking for the totals `asked`, server by server; each has the tick from which it serves."""
    ready, blocked, cost = [-1] * first, 0, 0.0
    for t, arriving in enumerate(demand):
        change = asked[t] - len(ready) if t >= blocked else 0
        ready = sorted(ready)[: len(ready) + min(change, 0)] + [t + world.boot_delay_ticks] * max(change, 0)
        blocked = t + 1 + world.cooldown_ticks if change else blocked
        cost += len(ready) * world.price_server_hour_usd / 60 + max(change, 0) * world.price_start_usd
        cost += max(-change, 0) * world.price_stop_usd
        cost += world.price_drop_usd * max(arriving - sum(s <= t for s in ready), 0)
    return cost


def over_all_trees(chain, world, first, n_time):
    """The least expected cost over all maps from (tick, levels seen) to totals."""
    delay = 1 + world.metric_lag_ticks
    paths = [(path, odds) for path, odds in paths_of(chain, n_time) if odds > 0]
    nodes = sorted({(*path[: max(t + 1 - delay, 0)], "tick", t) for path, _ in paths for t in range(n_time)}, key=str)
    where = {node: i for i, node in enumerate(nodes)}
    route = [[where[(*path[: max(t + 1 - delay, 0)], "tick", t)] for t in range(n_time)] for path, _ in paths]
    known = {}
    least = np.inf
    for tree in itertools.product(range(world.min_servers, world.max_servers + 1), repeat=len(nodes)):
        total = 0.0
        for (path, odds), steps in zip(paths, route, strict=True):
            key = path, tuple(tree[i] for i in steps)
            if key not in known:
                known[key] = bill(chain.levels[list(path)], key[1], world, first)
            total += odds * known[key]
        least = min(least, total)
    return least


@pytest.mark.parametrize("delay", [0, 1, 2])
@pytest.mark.parametrize("lag", [0, 1])
def test_equals_the_best_of_all_decision_trees(delay, lag):
    rng = np.random.default_rng(10 * delay + lag)
    for cooldown in (0, 1):
        chain = random_chain(rng, 2)
        world = world_of(boot_delay_ticks=delay, metric_lag_ticks=lag, cooldown_ticks=cooldown, price_stop_usd=0.1)
        best = causal_optimum(chain, world, 3, initial_servers=1)
        assert best.cost_usd == pytest.approx(over_all_trees(chain, world, 1, 3), abs=ROUNDING)


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_policy_attains_its_cost_and_lies_between(lag):
    rng = np.random.default_rng(lag)
    for delay, cooldown in ((0, 0), (1, 2), (2, 0)):
        chain = random_chain(rng, 3)
        world = world_of(boot_delay_ticks=delay, metric_lag_ticks=lag, cooldown_ticks=cooldown, max_servers=3)
        best = causal_optimum(chain, world, 4, initial_servers=1)
        others = [Static(1), Static(2), Reactive(0.8), Newsvendor(), Schedule(rng.integers(0, 4, 4))]
        mean, clairvoyant, mine = np.zeros(len(others)), 0.0, 0.0
        for path, odds in paths_of(chain, 4):
            demand = trace(chain.levels[list(path)])
            mine += odds * simulate(demand, best.policy, world, initial_servers=1).cost_usd
            clairvoyant += odds * optimum_costs(demand.to_numpy(), world, initial_servers=1)[0]
            rolling = chain.forecast(demand, world)
            mean += odds * np.array(
                [simulate(demand, p, world, forecast=rolling, initial_servers=1).cost_usd for p in others]
            )
        assert mine == pytest.approx(best.cost_usd, abs=ROUNDING)
        assert clairvoyant <= best.cost_usd + ROUNDING
        assert best.cost_usd <= mean.min() + ROUNDING


def test_a_chain_without_chance_costs_what_the_clairvoyant_pays():
    cycle = MarkovDemand(np.array([0.0, 1.0, 3.0]), np.roll(np.eye(3), 1, axis=1), np.array([1.0, 0.0, 0.0]))
    world = world_of(max_servers=4, boot_delay_ticks=2, price_drop_usd=9.0)
    path = cycle.levels[np.arange(30) % 3]
    best = causal_optimum(cycle, world, 30, initial_servers=1)
    assert best.cost_usd == pytest.approx(optimum_costs(path, world, initial_servers=1)[0], abs=ROUNDING)
    seen = simulate(trace(path), best.policy, world, initial_servers=1)
    assert seen.cost_usd == pytest.approx(best.cost_usd, abs=ROUNDING)


def test_without_delay_or_memory_it_is_the_newsvendor():
    # Independent demand, nothing to switch: each tick costs min over n of n c + p E max(demand - n, 0).
    law = np.array([0.2, 0.5, 0.2, 0.1])
    chain = MarkovDemand(np.array([0.0, 1.0, 2.0, 4.0]), np.tile(law, (4, 1)), law)
    world = world_of(boot_delay_ticks=0, price_start_usd=0.0, max_servers=5)
    per_tick = min(n + 2.5 * law @ np.maximum(chain.levels - n, 0) for n in range(6))
    assert causal_optimum(chain, world, 40, initial_servers=3).cost_usd == pytest.approx(40 * per_tick, abs=1e-7)


def test_later_knowledge_and_longer_boots_never_cost_less():
    chain = markov_suite(1.0)["bursts"]
    world = world_of(max_servers=7, price_drop_usd=30.0)
    by_lag = [
        causal_optimum(chain, replace(world, metric_lag_ticks=k), 60, initial_servers=2).cost_usd for k in range(4)
    ]
    by_boot = [
        causal_optimum(chain, replace(world, boot_delay_ticks=k), 60, initial_servers=2).cost_usd for k in range(4)
    ]
    assert by_lag == sorted(by_lag) and by_lag[0] < by_lag[-1]
    assert by_boot == sorted(by_boot) and by_boot[0] < by_boot[-1]


def test_the_true_forecast_is_the_law_of_the_chain():
    rng = np.random.default_rng(5)
    chain = random_chain(rng, 4)
    world = world_of(boot_delay_ticks=2, metric_lag_ticks=1)
    demand = chain.sample(50, tick_seconds=60, rng=rng)
    rolling = chain.forecast(demand, world)
    assert rolling.mean.shape == (50, 3) and rolling.lag_ticks == 1
    now = np.flatnonzero(chain.levels == demand.iloc[17])[0]
    law = np.linalg.multi_dot([np.eye(4)[now], *[chain.transition] * 4])  # tick 21 from tick 17
    assert rolling.mean[19, 2] == pytest.approx(law @ chain.levels)
    for level, value in zip(rolling.levels, rolling.quantiles[19, 2], strict=True):
        assert value == min(x for x, below in zip(chain.levels, np.cumsum(law), strict=True) if below >= level - 1e-12)
    assert rolling.mean[0, 0] == pytest.approx(chain.initial @ chain.levels)


def test_sampled_paths_follow_the_chain():
    for chain in markov_suite(60.0).values():
        where = chain.level_of(chain.sample(20_000, tick_seconds=60, rng=np.random.default_rng(1)).to_numpy())
        counts = np.zeros(chain.transition.shape)
        np.add.at(counts, (where[:-1], where[1:]), 1)
        rows = counts.sum(axis=1, keepdims=True)
        sigma = np.sqrt(chain.transition * (1 - chain.transition) / rows)
        assert (np.abs(counts / rows - chain.transition) <= MANY_SIGMA * sigma + 1e-12).all()


def test_bad_chains_and_misuse_are_refused():
    chain = markov_suite(1.0)["bursts"]
    with pytest.raises(SchemaError, match="distribution"):
        MarkovDemand(np.array([1.0, 2.0]), np.full((2, 2), 0.4), np.array([1.0, 0.0]))
    with pytest.raises(SchemaError, match="shape"):
        MarkovDemand(np.array([1.0, 2.0]), np.eye(3), np.array([1.0, 0.0]))
    with pytest.raises(SchemaError, match="distinct"):
        MarkovDemand(np.array([1.0, 1.0]), np.eye(2), np.array([1.0, 0.0]))
    with pytest.raises(SchemaError, match="queue_limit"):
        causal_optimum(chain, world_of(queue_limit=1.0), 4, initial_servers=1)
    with pytest.raises(SchemaError, match="1 tick or more"):
        causal_optimum(chain, world_of(), 0, initial_servers=1)
    best = causal_optimum(chain, world_of(), 4, initial_servers=1)
    with pytest.raises(SchemaError, match="not on the chain"):
        simulate(trace([1.0, 1.0]), best.policy, world_of(), initial_servers=1)
    with pytest.raises(SchemaError, match="another number of ticks"):
        simulate(trace([1.8, 1.8]), best.policy, world_of(), initial_servers=2)
