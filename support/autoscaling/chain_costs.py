"""What a policy costs on a Markov chain in expectation, exactly: no path is sampled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.oracle_causal import MarkovDemand
from support.autoscaling.oracle_states import States, reachable_states
from support.autoscaling.simulate import Observation, Policy, guard

__all__ = ["expected_cost"]


def expected_cost(
    policy: Policy, chain: MarkovDemand, environment: Environment, n_time: int, *, initial_servers: int,
    horizon_ticks: int,
) -> float:  # fmt: skip
    """Expected cost in USD over `n_time` ticks of `chain` of a policy that knows the chain's law; comparable to
    `causal_optimum`.

    The policy may use the fleet, its pipeline, the cooldown, the newest demand and the forecast of the next
    `horizon_ticks` ticks, which is the true law given the newest demand; nothing older. As long as there is no demand
    to see it holds the fleet. Backward induction over fleet and last level seen; no approximation.
    Raises SchemaError for a queue, random boots, or a world too large.

    Example:
        >>> from support.autoscaling.policies import Static
        >>> coin = MarkovDemand(np.array([60.0, 120.0]), np.full((2, 2), 0.5), np.array([0.5, 0.5]))
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, price_server_hour_usd=60.0, price_drop_usd=0.03,
        ...                     boot_delay_ticks=0, max_servers=2)
        >>> round(expected_cost(Static(1), coin, world, 3, initial_servers=1, horizon_ticks=1), 9)
        5.7
    """
    states = reachable_states(environment, initial_servers)
    lag, n_state = environment.metric_lag_ticks, len(states.index)
    servers = np.arange(environment.max_servers + 1)
    lost = environment.price_drop_usd * np.maximum(
        chain.levels[:, None] - environment.capacity_per_tick * servers, 0.0
    )  # (level, servers)
    asked = _asked(policy, chain, environment, states, horizon_ticks)  # (level, state)
    after, serving, cost = (t[np.arange(n_state), asked] for t in (states.following, states.serving, states.cost_usd))
    stage = cost + np.take_along_axis(chain.ahead(lag + 1) @ lost, serving, axis=1)
    value, unseen = np.zeros(asked.shape), min(lag + 1, n_time)
    for _ in range(n_time - unseen):
        value = stage + np.take_along_axis(chain.transition @ value, after, axis=1)
    total = np.array([active + sum(booting) for active, booting, *_ in states.index]) - states.lowest
    after, serving, cost = (t[np.arange(n_state), total] for t in (states.following, states.serving, states.cost_usd))
    blind = chain.initial @ value
    for t in range(unseen - 1, -1, -1):
        blind = cost + (chain.initial @ chain.ahead(t) @ lost)[serving] + blind[after]
    return float(blind[0])


def _asked(
    policy: Policy, chain: MarkovDemand, environment: Environment, states: States, horizon_ticks: int
) -> np.ndarray:
    """Position of the total that the policy gets, (n_level, n_state), after the guard."""
    n_level, lag, delay = len(chain.levels), environment.metric_lag_ticks, environment.boot_delay_ticks
    seen_levels = chain.levels[np.r_[np.arange(n_level), np.zeros(lag + 1, dtype=int)]]
    step = pd.Timedelta(seconds=environment.tick_seconds)
    path = pd.Series(seen_levels, index=pd.date_range("2026-01-01", periods=len(seen_levels), freq=step, tz="UTC"))
    law = chain.forecast(path, replace(environment, boot_delay_ticks=horizon_ticks - 1))
    prepared, none = policy.prepare(environment, law), np.zeros(1)
    out = np.empty((n_level, len(states.index)), dtype=np.int64)
    for level in range(n_level):
        row, newest = level + lag + 1, chain.levels[level : level + 1]  # the row that saw this level last
        for number, (active, booting, cooldown, _) in enumerate(states.index):
            pipeline = tuple((delay - left, count) for left, count in enumerate(booting) if count)
            seen = Observation(row, row, active, sum(booting), cooldown, newest, newest, none, none, pipeline=pipeline)
            _, desired, _ = policy.act(prepared, seen)
            out[level, number] = guard(int(desired), active + sum(booting), cooldown, environment) - states.lowest
    return out
