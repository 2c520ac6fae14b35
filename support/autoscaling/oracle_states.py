"""The same optimum the long way: every active server, booting order and cooldown tick is a state of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit

from support.autoscaling.environment import Environment
from support.autoscaling.oracle import Optimum, Schedule
from support.autoscaling.oracle_sweep import check_exact
from support.autoscaling.simulate import first_servers, guard, simulate
from support.errors import SchemaError

__all__ = ["States", "backup", "full_state_optimum", "reachable_states"]

MOST_STATES = 60_000
CHOICE_BYTES = 2**30

State = tuple[int, tuple[int, ...], int, bool]  # active, booting by ticks left, cooldown left, raised at the last tick


@dataclass(frozen=True)
class States:
    """All states a fleet can reach, and what each total asked for does to it in one tick.

    index: state -> number; state 0 is the start. following (n_state, n_total): next state, -1 where the guard would not
    let that total through. serving, cost_usd: same shape, servers that serve the tick and the bill without drops.
    lowest: the first total.
    """

    index: dict[State, int]
    following: np.ndarray
    serving: np.ndarray
    cost_usd: np.ndarray
    lowest: int


def reachable_states(environment: Environment, initial_servers: int, *, reversal: bool = True) -> States:
    """Every state reachable from `initial_servers` active ones, by the rules of `simulate`.

    reversal: False forbids a stop at the tick directly after a start, as the DataFlow system does.
    Raises SchemaError for a queue, a random boot delay, or more than 60,000 states.

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, max_servers=2)
        >>> sorted(reachable_states(world, 1).index)  # one server, one and one booting, two
        [(1, (0,), 0, False), (1, (1,), 0, False), (2, (0,), 0, False)]
    """
    check_exact(environment)
    if environment.queue_limit > 0 or environment.drain_ticks or environment.control_every_ticks > 1:
        raise SchemaError("full-state optimum: queue_limit and drain_ticks must be 0, control_every_ticks 1.")
    delay, low = environment.boot_delay_ticks, environment.min_servers
    totals = range(low, environment.max_servers + 1)
    start: State = (first_servers(0.0, initial_servers, environment), (0,) * delay, 0, False)
    index, todo, rows = {start: 0}, [start], []
    for state in todo:  # grows while it is read
        row = []
        for asked in totals:
            step = _step(state, asked, environment, reversal)
            if step is None:
                row.append((-1, 0, 0.0))
                continue
            after, cost = step
            if after not in index:
                index[after] = len(index)
                todo.append(after)
            row.append((index[after], after[0], cost))
        rows.append(row)
        if len(index) > MOST_STATES:
            raise SchemaError(
                f"full-state optimum: more than {MOST_STATES} states; use fewer servers or a shorter delay."
            )
    table = np.array(rows)
    return States(index, table[..., 0].astype(np.int32), table[..., 1].astype(np.int32), table[..., 2].copy(), low)


def full_state_optimum(
    demand: pd.Series, environment: Environment, *, initial_servers: int, reversal: bool = True
) -> Optimum:
    """The clairvoyant optimum over the literal states: slow in large worlds, but nothing about it needs a proof.

    With max_step_up = max_step_down = 1 and reversal=False it is the DataFlow system's own model (actions -1, 0, +1).
    Raises SchemaError as `reachable_states` does, or where the choices would not fit in memory.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, price_drop_usd=1.0, boot_delay_ticks=1, max_servers=3)
        >>> full_state_optimum(pd.Series([60.0, 120.0, 60.0], index=minutes), world, initial_servers=1).schedule.servers.tolist()
        [2, 2, 1]
    """
    states = reachable_states(environment, initial_servers, reversal=reversal)
    work = demand.to_numpy(dtype=np.float64)
    n_state = len(states.index)
    if len(work) * n_state * 2 > CHOICE_BYTES:
        raise SchemaError(
            f"full-state optimum: {len(work)} ticks of {n_state} states; use `optimum` or a shorter trace."
        )
    choices = np.empty((len(work), n_state), dtype=np.uint16)
    lost = environment.price_drop_usd * np.maximum(
        work[:, None] - environment.capacity_per_tick * np.arange(environment.max_servers + 1), 0.0
    )
    value = np.zeros(n_state)
    for t in range(len(work) - 1, -1, -1):
        value = backup(value[None], states.following, states.serving, states.cost_usd, lost[t][None], choices[t][None])[
            0
        ]
    asked, state = np.empty(len(work), dtype=np.int64), 0
    for t in range(len(work)):
        asked[t] = states.lowest + choices[t, state]
        state = states.following[state, choices[t, state]]
    schedule = Schedule(asked, "full-state optimum")
    run = simulate(demand, schedule, environment, initial_servers=initial_servers)
    return Optimum(schedule, run, min(float(value[0]), run.cost_usd))


@njit(cache=True)
def backup(
    value: np.ndarray,
    following: np.ndarray,
    serving: np.ndarray,
    cost: np.ndarray,
    lost: np.ndarray,
    choices: np.ndarray,
) -> np.ndarray:
    """One Bellman backup. value (n_info, n_state): expected cost-to-go; lost (n_info, servers): drops in USD.

    Writes the least costly total (first of equals) into choices (n_info, n_state); returns the new value.

    Example:
        >>> one, choices = np.zeros((1, 1)), np.zeros((1, 1), dtype=np.uint16)  # one state, two totals to ask for
        >>> both = np.zeros((1, 2), dtype=np.int32)
        >>> backup(one, both, np.array([[0, 1]]), np.array([[0.0, 1.0]]), np.array([[3.0, 0.0]]), choices).tolist()
        [[1.0]]
        >>> choices.tolist()
        [[1]]
    """
    n_info, n_state = value.shape
    new = np.empty((n_info, n_state))
    for info in range(n_info):
        for state in range(n_state):
            least = np.inf
            for total in range(following.shape[1]):
                after = following[state, total]
                if after >= 0:
                    here = cost[state, total] + lost[info, serving[state, total]] + value[info, after]
                    if here < least:
                        least = here
                        choices[info, state] = total
            new[info, state] = least
    return new


def _step(state: State, asked: int, world: Environment, reversal: bool) -> tuple[State, float] | None:
    """State after one tick and its bill without drops; None if the guard or the reversal rule changes `asked`."""
    active, booting, cooldown, raised = state
    total = active + sum(booting)
    change = asked - total
    if guard(asked, total, cooldown, world) != asked or (change < 0 and raised):
        return None
    orders = [*booting, max(change, 0)]
    left = max(-change, 0)
    for age in range(len(booting) - 1, -1, -1):  # the youngest order is cancelled first
        taken = min(left, orders[age])
        orders[age] -= taken
        left -= taken
    active += orders[0] - left
    price = world.price_start_usd if change > 0 else world.price_stop_usd
    cost = price * abs(change) + world.price_server_tick_usd * (active + sum(orders[1:]))
    cooldown = world.cooldown_ticks if change else max(cooldown - 1, 0)
    return (active, tuple(orders[1:]), cooldown, change > 0 and not reversal), cost
