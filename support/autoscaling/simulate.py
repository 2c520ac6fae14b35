"""The simulator: one tick after the other, exactly in the order that chapter 12 states. Float64 work, whole servers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.special import gammaln, pdtr, xlogy

from support.autoscaling.environment import Environment
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["Observation", "Policy", "Run", "erlang_c_wait", "guard", "simulate"]


@dataclass(slots=True)
class Observation:
    """What a policy may know before tick t: everything through tick t - 1 - lag, nothing of tick t.

    arrivals, served, queue: (t - lag,) per tick, requests. active, booting: servers. row: position in the forecast.
    """

    tick: int
    row: int
    active: int
    booting: int
    cooldown_left: int
    arrivals: np.ndarray
    served: np.ndarray
    queue: np.ndarray


class Policy(Protocol):
    """A rule that says how many servers (active and booting) there should be; pure, its state is passed along."""

    @property
    def name(self) -> str:
        """Name in tables and figures."""

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> Any:
        """State before the first tick; row i of the forecast may be used at tick i only."""

    def act(self, state: Any, seen: Observation) -> tuple[Any, int, str]:
        """(next state, desired servers, reason)."""


@dataclass(frozen=True)
class Run:
    """What happened: `ticks` has one row per tick, `costs` the bill in USD by part; their sum is the score."""

    policy: str
    environment: Environment
    ticks: pd.DataFrame
    costs: dict[str, float]

    @property
    def cost_usd(self) -> float:
        """The whole bill."""
        return sum(self.costs.values())


def guard(desired: int, total: int, cooldown_left: int, environment: Environment) -> int:
    """Servers that may really be asked for: cooldown, step limits, then bounds. Shared by simulator and optimum.

    Example:
        >>> guard(50, 10, 0, Environment(tick_seconds=60, service_rate_rps=1, max_servers=20, max_step_up=4))
        14
    """
    if cooldown_left > 0:
        return total
    if environment.max_step_up is not None:
        desired = min(desired, total + environment.max_step_up)
    if environment.max_step_down is not None:
        desired = max(desired, total - environment.max_step_down)
    return min(max(desired, environment.min_servers), environment.max_servers)


def simulate(
    demand: pd.Series, policy: Policy, environment: Environment, *, forecast: RollingQuantiles | None = None,
    initial_servers: int | None = None, rng: np.random.Generator | None = None,
) -> Run:  # fmt: skip
    """Run `policy` over `demand` (n_time,), requests per tick, on a UTC index with the environment's tick.

    forecast: rows aligned with `demand`. initial_servers: active at the start (default: what carries the first tick).
    rng: needed if boot delays are random. Raises SchemaError if tick, forecast or rng do not fit.
    Not simulated: boot failure, draining, abandonment (patience), minimum billing by the started hour. Source: the order of events is that of the chapter on autoscaling policies.
    """
    work = demand.to_numpy(dtype=np.float64)
    _check(demand, work, environment, forecast, rng)
    mu, delay, lag = environment.capacity_per_tick, environment.boot_delay_ticks, environment.metric_lag_ticks
    first = math.ceil(work[0] / mu) if initial_servers is None else initial_servers
    active = min(max(first, environment.min_servers), environment.max_servers)
    orders: list[list[int]] = []  # [tick of completion, servers], oldest order first
    booting, queue, cooldown = 0, 0.0, 0
    n_time, arriving, limit = len(work), work.tolist(), environment.queue_limit
    served, dropped, waiting = np.zeros(n_time), np.zeros(n_time), np.zeros(n_time)
    servers, pending, started, stopped = (np.zeros(n_time, dtype=np.int64) for _ in range(4))
    reasons: list[str] = []
    state = policy.prepare(environment, forecast)
    for t in range(n_time):
        known = max(t - lag, 0)
        seen = Observation(t, t, active, booting, cooldown, work[:known], served[:known], waiting[:known])  # 1 observe
        state, desired, reason = policy.act(state, seen)  # 2 decide
        total = active + booting
        change = guard(int(desired), total, cooldown, environment) - total  # 3 guard
        if change > 0:  # 4 apply
            orders.append([t + _delay(delay, environment.boot_delay_sigma, rng), change])
            booting += change
            started[t] = change
        elif change < 0:
            cancelled = _cancel(orders, -change)
            booting -= cancelled
            active += change + cancelled
            stopped[t] = -change
        cooldown = environment.cooldown_ticks if change else max(cooldown - 1, 0)
        if orders:  # 5 boot completion
            ready = sum(count for due, count in orders if due <= t)
            if ready:
                orders = [order for order in orders if order[0] > t]
                booting -= ready
                active += ready
        offered = queue + arriving[t]  # 6 arrivals
        done = min(offered, active * mu)  # 7 serve, first in first out
        queue = min(offered - done, limit)  # 8 queue and overflow
        served[t], dropped[t] = done, offered - done - queue
        waiting[t], servers[t], pending[t] = queue, active, booting
        reasons.append(reason)
    return _bill(
        demand, policy.name, environment, served, dropped, waiting, servers, pending, started, stopped, reasons
    )


def erlang_c_wait(arrivals_rps: np.ndarray, service_rate_rps: float, servers: np.ndarray) -> np.ndarray:
    """Mean wait in seconds in an M/M/n queue, shape as the inputs; infinite at or above full load.

    Erlang B is the Poisson ratio B = pmf(n; a) / cdf(n; a), C = B / (1 - rho (1 - B)); wait = C / (n mu - lambda).
    Source: Erlang (1917).

    Example:
        >>> erlang_c_wait(np.array([0.5]), 1.0, np.array([1])).round(12).tolist()  # M/M/1: rho / (mu - lambda)
        [1.0]
    """
    arrivals, n = np.broadcast_arrays(np.asarray(arrivals_rps, dtype=float), np.asarray(servers, dtype=float))
    load = arrivals / service_rate_rps
    wait = np.where(load > 0, np.inf, 0.0)
    stable = (load > 0) & (load < n)
    a, n = load[stable], n[stable]
    blocking = np.exp(xlogy(n, a) - a - gammaln(n + 1)) / pdtr(n, a)
    rho = a / n
    wait[stable] = blocking / (1 - rho * (1 - blocking)) / (service_rate_rps * (n - a))
    return wait


def _cancel(orders: list[list[int]], most: int) -> int:
    """Take up to `most` booting servers out of `orders`, the youngest order first; returns how many."""
    left = most
    while left and orders:
        taken = min(left, orders[-1][1])
        orders[-1][1] -= taken
        left -= taken
        if not orders[-1][1]:
            orders.pop()
    return most - left


def _delay(ticks: int, sigma: float, rng: np.random.Generator | None) -> int:
    """Boot delay of one order in ticks: fixed, or lognormal with mean `ticks`, rounded up."""
    if not sigma or rng is None:
        return ticks
    return math.ceil(ticks * rng.lognormal(-0.5 * sigma**2, sigma))


def _check(
    demand: pd.Series,
    work: np.ndarray,
    environment: Environment,
    forecast: RollingQuantiles | None,
    rng: np.random.Generator | None,
) -> None:
    if len(work) < 2 or not np.isfinite(work).all() or (work < 0).any():
        raise SchemaError("simulate: demand needs at least two ticks, all finite and not negative.")
    tick = (demand.index[1] - demand.index[0]).total_seconds()
    if abs(tick - environment.tick_seconds) > 1e-6:
        raise SchemaError(
            f"simulate: demand has a step of {tick:g} s, the environment a tick of {environment.tick_seconds:g} s."
        )
    if forecast is not None:
        if len(forecast.timestamps) != len(work) or forecast.timestamps[0] != demand.index[0]:
            raise SchemaError("simulate: the forecast's rows are not the demand's ticks.")
        if forecast.lag_ticks < environment.metric_lag_ticks:
            raise SchemaError(
                f"simulate: the forecast sees data {forecast.lag_ticks} ticks old, the policy's are {environment.metric_lag_ticks}."
            )
    if environment.boot_delay_sigma and rng is None:
        raise SchemaError("simulate: boot_delay_sigma is positive, so give rng=.")


def _bill(
    demand: pd.Series, name: str, environment: Environment, served: np.ndarray, dropped: np.ndarray, waiting: np.ndarray,
    servers: np.ndarray, pending: np.ndarray, started: np.ndarray, stopped: np.ndarray, reasons: Sequence[str],
) -> Run:  # fmt: skip
    """Steps 9 and 10: the bill by part, and the latency that is reported but not billed."""
    wait_price = environment.price_wait_hour_usd * environment.tick_seconds / 3600
    parts = {
        "servers": environment.price_server_tick_usd * (servers + pending),
        "starts": environment.price_start_usd * started,
        "stops": environment.price_stop_usd * stopped,
        "drops": environment.price_drop_usd * dropped,
        "waiting": wait_price * waiting,
    }
    rate = environment.service_rate_rps
    with np.errstate(divide="ignore", invalid="ignore"):
        fluid = np.where(waiting > 0, waiting / (servers * rate), 0.0)
    stochastic = erlang_c_wait(demand.to_numpy(float) / environment.tick_seconds, rate, servers)
    wait = np.where((waiting > 0) | (dropped > 0), fluid, stochastic)
    ticks = pd.DataFrame(
        {
            "arrivals": demand.to_numpy(float), "served": served, "dropped": dropped, "queue": waiting, "servers": servers,
            "booting": pending, "started": started, "stopped": stopped, "wait_seconds": wait,
            "cost_usd": sum(parts.values()), "reason": list(reasons),
        },
        index=demand.index,
    )  # fmt: skip
    return Run(name, environment, ticks, {part: float(cost.sum()) for part, cost in parts.items()})
