"""Stochastic model predictive control: plan the least expected cost, do the first step, plan again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from support.autoscaling.environment import Environment
from support.autoscaling.oracle_sweep import next_age, step_back
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["HorizonPlan", "StochasticMPC", "expected_stage_costs", "plan"]


@dataclass(frozen=True)
class HorizonPlan:
    """The open-loop schedule with the least expected cost.

    servers: (n_horizon,) total in effect at each stage: what is active, what boots already, and what will have been
    ordered; a server ordered now counts from the boot delay on. change: servers to order (positive) or to stop
    (negative) now. cost_usd: expected over the horizon, with what the present pipeline still costs.
    """

    servers: np.ndarray
    change: int
    cost_usd: float


def expected_stage_costs(
    demand: np.ndarray, environment: Environment, servers: np.ndarray, *, levels: np.ndarray | None = None
) -> np.ndarray:
    """Expected cost in USD of each stage with each number of `servers` (n_size,) that all serve: (n_horizon, n_size).

    demand: requests per tick, either sample paths (n_draw, n_horizon), or, with `levels` (n_level,), quantiles
    (n_horizon, n_level). Cost = price of m servers + price of a drop x E[(demand - m mu)+]. Without a queue the
    expected cost of a schedule depends on the joint distribution of the stages through their marginals only, so that
    quantiles are enough. E[(demand - x)+] is the integral over u of (Q(u) - x)+, exact for Q linear between levels;
    the probability beyond the outermost levels sits at the outermost quantiles, so that no server is ever bought for
    demand above the highest one. Raises SchemaError if shapes misfit or levels do not increase within (0, 1).

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1, price_server_hour_usd=0.6, price_drop_usd=0.01)
        >>> paths = np.array([[60.0, 180.0], [120.0, 180.0]])
        >>> expected_stage_costs(paths, world, np.array([1, 2])).round(3).tolist()
        [[0.31, 0.02], [1.21, 0.62]]
    """
    demand, capacity = np.asarray(demand, dtype=np.float64), servers * environment.capacity_per_tick
    if demand.ndim != 2 or not demand.size or not np.isfinite(demand).all():
        raise SchemaError(f"mpc: demand of shape {demand.shape} must be two-dimensional, not empty, finite.")
    if levels is None:
        short = np.stack([np.maximum(demand - able, 0.0).mean(axis=0) for able in capacity], axis=1)
    else:
        levels = np.asarray(levels, dtype=np.float64)
        if levels.shape != demand.shape[1:] or not (np.diff(levels, prepend=0.0, append=1.0) > 0).all():
            raise SchemaError(f"mpc: {levels} are no increasing levels in (0, 1) for demand of shape {demand.shape}.")
        short = _shortfall(levels, np.ascontiguousarray(demand), capacity.astype(np.float64))
    return environment.price_server_tick_usd * servers + environment.price_drop_usd * short


def plan(
    costs: np.ndarray,
    environment: Environment,
    *,
    smallest: int,
    active: int,
    pipeline: tuple[tuple[int, int], ...] = (),
    cooldown_left: int = 0,
) -> HorizonPlan:
    """The cheapest schedule over the horizon, given expected stage costs (n_horizon, n_size) as above; exact.

    Column j is for `smallest` + j servers. active: servers that serve; pipeline: (age in ticks, servers) of each
    booting order, the oldest first; cooldown_left: ticks in which no change is allowed. As in the clairvoyant optimum
    each change is known by the stage at which it takes effect: an order of now at stage d, with d ticks of booting in
    its price, a stop at once, and the cooldown becomes a least distance of effects. What boots already serves at its
    known stage, and a stop cancels the youngest first. Step limits, bounds and control ticks are honoured.
    Approximate are three things: drawn boots are planned with their mean delay and never fail, billing is by the tick,
    and where there is a drain, cancelled orders are charged with it too. Raises SchemaError if the horizon does not
    reach the boot delay, or the columns do not hold the fleet. Source: Bellman (1957); open-loop feedback: Bertsekas,
    Dynamic Programming and Optimal Control, volume I.

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1, boot_delay_ticks=1, price_drop_usd=0.01)
        >>> costs = expected_stage_costs(np.array([[60.0, 120.0, 120.0]]), world, np.arange(1, 4))
        >>> plan(costs, world, smallest=1, active=1).servers.tolist()
        [1, 2, 2]
    """
    delay, total = environment.boot_delay_ticks, active + sum(count for _, count in pipeline)
    horizon, n_size = costs.shape
    most = min(environment.max_servers, environment.quota_servers or environment.max_servers)
    low, first = max(environment.min_servers, smallest), max(environment.min_servers, total)
    if horizon <= delay or not 0 <= smallest <= active or first >= smallest + n_size:
        raise SchemaError(
            f"mpc: stage costs of {horizon} ticks for {smallest}..{smallest + n_size - 1} servers; needed are more "
            f"than {delay} ticks, and all sizes from {active} (active) to {first} (with those booting, or the minimum)."
        )
    high = max(min(most, smallest + n_size - 1), first)
    available = np.full(horizon, active)
    for age, count in pipeline:
        available[max(delay - age, 0) :] += count
    server = environment.price_server_tick_usd
    servers, cost = _schedule(
        np.ascontiguousarray(costs, dtype=np.float64), available, smallest, low, high, first, cooldown_left,
        (horizon, environment.control_every_ticks, environment.drain_ticks, delay, environment.cooldown_ticks),
        (server, float(environment.price_start_usd + delay * server), float(environment.price_stop_usd)),
        (environment.max_step_up or n_size, environment.max_step_down or n_size),
    )  # fmt: skip
    before = int(servers[delay - 1]) if delay else first
    change = max(int(servers[delay]) - before, 0) + min(int(servers[0]) - first, 0) + first - total
    return HorizonPlan(servers, change, float(cost))


@dataclass(frozen=True)
class StochasticMPC:
    """Open-loop feedback: at each tick `plan` on the forecast's expected costs, do the first step, plan again.

    horizon_ticks: stages to look ahead (None: all the forecast has), more than the boot delay. With a queue the
    expected cost is no longer a matter of marginals. Then, as an approximation, new work that does not fit into its
    tick is priced as lost, and the backlog last seen is added to the demand: until an order helps, as far as the
    present fleet leaves it standing under the median forecast; what is left then is spread over one more boot delay.
    Raises SchemaError where there is no forecast or it is too short.
    """

    horizon_ticks: int | None = None
    name: str = "stochastic MPC"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Prepared:
        """The forecast, and the fleet sizes worth looking at in each row, from that row alone."""
        need = max(environment.boot_delay_ticks + 1, self.horizon_ticks or 1)
        if forecast is None or forecast.mean.shape[1] < need or (self.horizon_ticks or need) < need:
            raise SchemaError(
                f"{self.name}: needs a forecast of {need} ticks, and horizon_ticks above the boot delay of "
                f"{environment.boot_delay_ticks}; horizon_ticks is {self.horizon_ticks}."
            )
        horizon = self.horizon_ticks or forecast.mean.shape[1]
        level = min(max(environment.critical_fractile, float(forecast.levels[0])), float(forecast.levels[-1]))
        # A plan that leaves the range of the stages' own best sizes and the present fleet could be clipped to it.
        wanted = forecast.at(level)[:, :horizon] / environment.capacity_per_tick
        pays = environment.critical_fractile > 0
        low = np.floor(wanted.min(axis=1) * pays).clip(environment.min_servers, environment.max_servers).astype(int)
        return _Prepared(environment, forecast, horizon, low, wanted.max(axis=1))

    def act(self, state: _Prepared, seen: Observation) -> tuple[_Prepared, int, str]:
        """The present total and the first step of the plan of this row."""
        world, total = state.environment, seen.active + seen.booting
        quantiles = state.forecast.quantiles[seen.row, : state.horizon].astype(np.float64)
        waiting = float(seen.queue[-1]) if world.queue_limit > 0 and len(seen.queue) else 0.0
        extra = 0.0
        if waiting > 0:
            shift = _backlog(quantiles, state.forecast.levels, waiting, seen, world)
            quantiles += shift[:, None]
            extra = float(shift.max()) / world.capacity_per_tick
        smallest = min(seen.active, int(state.low[seen.row]))
        wanted = math.ceil(min(float(state.wanted[seen.row]) + extra, world.max_servers))
        largest = max(total, wanted, world.min_servers)
        costs = expected_stage_costs(quantiles, world, np.arange(smallest, largest + 1), levels=state.forecast.levels)
        best = plan(
            costs, world, smallest=smallest, active=seen.active, pipeline=seen.pipeline,
            cooldown_left=seen.cooldown_left,
        )  # fmt: skip
        return state, total + best.change, _reason(best, total, seen.cooldown_left, world)


@dataclass(frozen=True)
class _Prepared:
    """low: (n_time,) smallest fleet worth looking at; wanted: (n_time,) the largest, not yet a whole number."""

    environment: Environment
    forecast: RollingQuantiles
    horizon: int
    low: np.ndarray
    wanted: np.ndarray


def _reason(best: HorizonPlan, total: int, cooldown_left: int, environment: Environment) -> str:
    ahead = f"over the next {len(best.servers)} ticks"
    if best.change > 0:
        return f"least expected cost {ahead}: order {best.change}, to serve in {environment.boot_delay_ticks} ticks"
    if best.change < 0:
        return f"least expected cost {ahead}: stop {-best.change} now"
    if cooldown_left:
        return f"cooldown: {cooldown_left} more ticks without a change"
    later = np.flatnonzero(best.servers != total)
    if not len(later):
        return f"least expected cost {ahead}: no change pays"
    return f"least expected cost {ahead}: hold, {best.servers[later[0]]} servers from tick {later[0]} on"


def _backlog(
    quantiles: np.ndarray, levels: np.ndarray, waiting: float, seen: Observation, environment: Environment
) -> np.ndarray:
    """Requests that wait, to add to the demand of each stage, (n_horizon,); see StochasticMPC."""
    horizon, delay = len(quantiles), environment.boot_delay_ticks
    median = quantiles[:, int(np.abs(levels - 0.5).argmin())]
    shift = np.zeros(horizon)
    for stage in range(delay):
        shift[stage] = waiting
        serving = seen.active + sum(count for age, count in seen.pipeline if delay - age <= stage)
        left = waiting + median[stage] - serving * environment.capacity_per_tick
        waiting = min(max(left, 0.0), environment.queue_limit)
    stop = min(2 * delay + 1, horizon)
    shift[delay:stop] = waiting / (stop - delay)
    return shift


@njit(cache=True)
def _shortfall(levels: np.ndarray, quantiles: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """E[(demand - capacity)+], (n_horizon, n_size), from quantiles that are linear between `levels`."""
    n_horizon, n_level = quantiles.shape
    out = np.zeros((n_horizon, len(capacity)))
    for stage in range(n_horizon):
        for size in range(len(capacity)):
            able = capacity[size]
            short = levels[0] * max(quantiles[stage, 0] - able, 0.0)
            short += (1.0 - levels[-1]) * max(quantiles[stage, n_level - 1] - able, 0.0)
            for k in range(n_level - 1):
                lower, upper = quantiles[stage, k], quantiles[stage, k + 1]
                if lower > upper:
                    lower, upper = upper, lower
                if lower >= able:
                    short += (levels[k + 1] - levels[k]) * (0.5 * (lower + upper) - able)
                elif upper > able:
                    short += (levels[k + 1] - levels[k]) * (upper - able) ** 2 / (2.0 * (upper - lower))
            out[stage, size] = short
    return out


@njit(cache=True)
def _schedule(
    costs: np.ndarray, available: np.ndarray, smallest: int, low: int, high: int, total: int, cooldown_left: int,
    clock: tuple[int, int, int, int, int], prices: tuple[float, float, float], steps: tuple[int, int],
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Totals in effect, (n_horizon,), and their expected cost, by the recursion of the clairvoyant optimum."""
    horizon, (delay, cooldown) = len(costs), clock[3:]
    n_age, sizes = 1 + 2 * cooldown + delay, high - low + 1
    stage = np.empty((horizon, sizes))
    for t in range(horizon):
        for size in range(sizes):
            serving = min(low + size, available[t]) if t < delay else low + size
            stage[t, size] = costs[t, serving - smallest] + prices[0] * (low + size - serving)
    after = np.arange(sizes)
    old, new = np.zeros((n_age, sizes)), np.empty((n_age, sizes))
    choices = np.empty((horizon, n_age, sizes), dtype=np.uint16)
    for t in range(horizon - 1, -1, -1):
        step_back(stage[t], after, old, new, choices[t], t, 1, clock, prices, steps)
        old, new = new, old
    # As if the last change had been a stop: stops are free after the cooldown, starts serve a boot delay later.
    age = 2 * cooldown + 1 - cooldown_left if delay + cooldown_left else 0
    at = total - low
    cost = old[age, at]
    servers = np.empty(horizon, dtype=np.int64)
    for t in range(horizon):
        chosen = int(choices[t, age, at])
        age, at = next_age(age, chosen - at, delay, cooldown), chosen
        servers[t] = low + chosen
    return servers, cost
