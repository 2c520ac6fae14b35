"""Stochastic model predictive control: plan the least expected cost, do the first step, plan again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from support.autoscaling.environment import Environment
from support.autoscaling.oracle_sweep import next_age, step_back
from support.autoscaling.simulate import Observation
from support.autoscaling.stage_costs import expected_stage_costs, shortage_probabilities, tail_scale
from support.errors import SchemaError
from support.forecasting import RollingQuantiles
from support.writing import plural

__all__ = ["HorizonPlan", "StochasticMPC", "plan"]


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

    horizon_ticks: stages to look ahead (None: all the forecast has), more than the boot delay. price_bad_tick_usd: what
    a tick with a shortage is worth beyond the bill, for who promises minutes. Requests buy each tick the same quantile;
    minutes buy the same density, so that fewer spare servers stand by where each covers less probability. With a queue the
    expected cost is no longer a matter of marginals. Then, as an approximation, new work that does not fit into its
    tick is priced as lost, and the backlog last seen is added to the demand: until an order helps, as far as the
    present fleet leaves it standing under the median forecast; what is left then is spread over one more boot delay.
    Raises SchemaError where there is no forecast, it is too short or of one level with such a price, or that is negative.
    """

    horizon_ticks: int | None = None
    name: str = "stochastic MPC"
    price_bad_tick_usd: float = 0.0

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Prepared:
        """The forecast, and the fleet sizes worth looking at in each row, from that row alone."""
        need = max(environment.boot_delay_ticks + 1, self.horizon_ticks or 1)
        if forecast is None or forecast.mean.shape[1] < need or (self.horizon_ticks or need) < need:
            raise SchemaError(
                f"{self.name}: needs a forecast of {need} ticks, and horizon_ticks above the boot delay of "
                f"{environment.boot_delay_ticks}; horizon_ticks is {self.horizon_ticks}."
            )
        horizon = self.horizon_ticks or forecast.mean.shape[1]
        if not 0 <= self.price_bad_tick_usd < math.inf:
            raise SchemaError(f"{self.name}: price_bad_tick_usd is {self.price_bad_tick_usd:g}; it must be 0 or more.")
        if self.price_bad_tick_usd > 0 and len(forecast.levels) < 2:
            raise SchemaError(
                f"{self.name}: price_bad_tick_usd needs the chance of a shortage, and the forecast has the level "
                f"{forecast.levels[0]:g} only. Give one with two levels or more, or no such price."
            )
        level = min(max(environment.critical_fractile, float(forecast.levels[0])), float(forecast.levels[-1]))
        # A plan that leaves the range of the stages' own best sizes and the present fleet could be clipped to it.
        wanted = forecast.at(level)[:, :horizon] / environment.capacity_per_tick
        pays = environment.critical_fractile > 0
        low = np.floor(wanted.min(axis=1) * pays).clip(environment.min_servers, environment.max_servers).astype(int)
        if self.price_bad_tick_usd > 0:  # the promise only adds servers: up to where the density is no longer worth one
            wanted = np.maximum(wanted, self._densest(environment, forecast, horizon))
        return _Prepared(environment, forecast, horizon, low, wanted.max(axis=1))

    def _densest(self, environment: Environment, forecast: RollingQuantiles, horizon: int) -> np.ndarray:
        """Servers (n_time, horizon) at which one more is worth less than its price, on the exponential tail or its start."""
        top = forecast.quantiles[:, :horizon, -1] / environment.capacity_per_tick
        scale = tail_scale(forecast.quantiles[:, :horizon], forecast.levels) / environment.capacity_per_tick
        gain = self.price_bad_tick_usd * (1 - forecast.levels[-1]) / environment.price_server_tick_usd
        ratio = np.divide(gain, scale, out=np.ones_like(scale), where=scale > 0)
        return np.asarray(top + scale * np.log(np.maximum(ratio, 1.0)))

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
        sizes = np.arange(smallest, largest + 1)
        costs = expected_stage_costs(quantiles, world, sizes, levels=state.forecast.levels)
        if self.price_bad_tick_usd > 0:
            short = shortage_probabilities(quantiles, state.forecast.levels, sizes * world.capacity_per_tick)
            costs = costs + self.price_bad_tick_usd * short
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
    ahead = f"over the next {plural(len(best.servers), 'tick')}"
    if best.change > 0:
        return f"least expected cost {ahead}: order {best.change}, to serve in {plural(environment.boot_delay_ticks, 'tick')}"
    if best.change < 0:
        return f"least expected cost {ahead}: stop {-best.change} now"
    if cooldown_left:
        return f"cooldown: {plural(cooldown_left, 'more tick')} without a change"
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
