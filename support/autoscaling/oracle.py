"""The clairvoyant optimum: the cheapest schedule that a policy knowing the whole future could follow, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.oracle_sweep import Problem, next_age
from support.autoscaling.simulate import Observation, Run, first_servers, simulate
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["Optimum", "Schedule", "optimum", "optimum_costs", "regret"]

BACKLOG_LEVELS = 60  # backlog sizes of the bracket; its width falls as 1 / levels
CHOICE_BYTES = 2**28  # memory for remembered choices; longer traces are swept twice, block by block


@dataclass(frozen=True)
class Schedule:
    """A policy that asks for total `servers` (n_time,), one number a tick."""

    servers: np.ndarray
    name: str = "optimum"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> None:
        """Nothing to remember."""

    def act(self, state: None, seen: Observation) -> tuple[None, int, str]:
        """The total written down for this tick; SchemaError beyond the last."""
        if seen.tick >= len(self.servers):
            raise SchemaError(f"{self.name}: the schedule has {len(self.servers)} ticks, the demand more.")
        return None, int(self.servers[seen.tick]), "the future is known"


@dataclass(frozen=True)
class Optimum:
    """The cheapest schedule found and a proof of how good it is.

    schedule: total servers (active and booting) to ask for, (n_time,). run: what `simulate` makes of it, bill by part.
    lower_usd: no policy whatever can cost less. Without a queue it equals the cost of `run` up to rounding.
    """

    schedule: Schedule
    run: Run
    lower_usd: float

    @property
    def cost_usd(self) -> float:
        """Cost of the schedule in USD, by the simulator: the upper end of the bracket."""
        return self.run.cost_usd

    @property
    def gap_frac(self) -> float:
        """Width of the bracket as a fraction of its lower end."""
        return float(regret(self.cost_usd, self.lower_usd))


def optimum(
    demand: pd.Series,
    environment: Environment,
    *,
    initial_servers: int | None = None,
    backlog_levels: int = BACKLOG_LEVELS,
) -> Optimum:
    """The clairvoyant optimum for `demand` (n_time,), requests per tick, in the world of `simulate`.

    Without a queue it is exact. With one it is a certified bracket: the backlog is kept on a grid of `backlog_levels`
    steps up to the limit; rounded down, the cost is a lower bound; rounded up, it gives a schedule whose true cost is
    the upper bound. If demand, capacity and limit are whole grid steps, both ends meet.

    Method: an order that is cancelled or overtaken by a stop costs more than never placing it, so each change is known
    by the tick at which it takes effect, and a booting pipeline need not be part of the state. States: servers, backlog,
    direction and age of the last change. Bellman (1957).
    Raises SchemaError for demand that `simulate` refuses, for random boots, patience or billing in blocks (the argument
    fails), and if the state does not fit in memory.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=4, freq="60s", tz="UTC")
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, price_drop_usd=1.0, boot_delay_ticks=2)
        >>> best = optimum(pd.Series([60.0, 60.0, 120.0, 120.0], index=minutes), world)
        >>> best.schedule.servers.tolist(), best.run.costs["drops"], round(best.run.costs["servers"], 6)
        ([2, 2, 2, 2], 0.0, 0.016)
    """
    work = _work(demand.to_numpy(dtype=np.float64), environment)
    first = first_servers(work[0], initial_servers, environment)
    lower = Problem(work, environment, first, backlog_levels, False)
    schedule = Schedule(_schedule(work, Problem(work, environment, first, backlog_levels, True), environment, first))
    run = simulate(demand, schedule, environment, initial_servers=first)
    if environment.queue_limit > 0:
        bound, _ = lower.sweep(work, lower.last())
        return Optimum(schedule, run, min(float(bound[lower.start]), run.cost_usd))
    return Optimum(schedule, run, run.cost_usd)


def optimum_costs(
    demands: np.ndarray,
    environment: Environment,
    *,
    initial_servers: np.ndarray | int | None = None,
    backlog_levels: int = BACKLOG_LEVELS,
) -> np.ndarray:
    """Clairvoyant cost in USD, (n_episode,), of each row of `demands` (n_episode, n_time), requests per tick.

    With a queue it is the lower end of the bracket. Quicker than `optimum`: no schedule is built. Raises SchemaError
    as `optimum` does.

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, price_server_hour_usd=0.6, price_drop_usd=1.0)
        >>> optimum_costs(np.array([[60.0, 60.0], [0.0, 0.0]]), world).round(9).tolist()
        [0.02, 0.02]
    """
    rows = np.atleast_2d(np.asarray(demands, dtype=np.float64))
    costs = np.empty(len(rows))
    starts = [None] * len(rows) if initial_servers is None else np.broadcast_to(initial_servers, len(rows)).tolist()
    for episode, given in enumerate(starts):
        work = _work(rows[episode], environment)
        first = first_servers(work[0], given, environment)
        problem = Problem(work, environment, first, backlog_levels, False)
        costs[episode] = problem.sweep(work, problem.last())[0][problem.start]
    return costs


def regret(cost_usd: np.ndarray | float, optimum_usd: np.ndarray | float) -> np.ndarray:
    """Extra cost over the optimum as a fraction of it, elementwise: 0 where both are nothing, infinite where one is.

    Example:
        >>> regret(np.array([3.0, 0.0, 1.0]), np.array([2.0, 0.0, 0.0])).tolist()
        [0.5, 0.0, inf]
    """
    cost, best = np.broadcast_arrays(np.asarray(cost_usd, dtype=float), np.asarray(optimum_usd, dtype=float))
    out = np.where(cost > 0, np.inf, 0.0)
    with np.errstate(over="ignore"):  # an optimum of next to nothing
        np.divide(cost - best, best, out=out, where=best > 0)
    return out


def _schedule(work: np.ndarray, problem: Problem, world: Environment, first: int) -> np.ndarray:
    """Totals to ask for, (n_time,): cost-to-go backwards, choices forwards, in blocks that fit in memory."""
    per_tick = problem.ages * problem.sizes * problem.levels * 2
    length = max(1, min(len(work), CHOICE_BYTES // per_tick))
    blocks = [(at, work[at : at + length]) for at in range(0, len(work), length)]
    value, after = problem.last(), []
    for at, block in reversed(blocks[1:]):
        after.append(value)
        value, _ = problem.sweep(block, value, at)
    after.append(value)
    asked = np.zeros(len(work), dtype=np.int64)  # change of the total at each tick
    age, size, backlog = problem.age_first, first - problem.low, 0.0
    for at, block in blocks:
        _, choices = problem.sweep(block, after.pop(), at, choose=True)
        for offset, arriving in enumerate(block.tolist()):
            level = min(math.ceil(backlog / problem.quantum), problem.levels - 1)
            chosen = int(choices[offset, age, size * problem.levels + level])
            asked[at + offset - (problem.delay if chosen > size else 0)] += chosen - size
            age, size = next_age(age, chosen - size, problem.delay, problem.cooldown), chosen
            left = max(backlog + arriving - (problem.low + size) * problem.capacity, 0.0)
            backlog = min(left, problem.limit)
    return first + np.cumsum(asked)


def _work(work: np.ndarray, environment: Environment) -> np.ndarray:
    if work.ndim != 1 or not len(work) or not np.isfinite(work).all() or (work < 0).any():
        raise SchemaError("optimum: demand must be finite and not negative, with at least one tick.")
    return work
