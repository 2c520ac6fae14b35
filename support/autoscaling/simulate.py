"""The simulator: one tick after the other, exactly in the order that chapter 12 states. Float64 work, whole servers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.fleet import BootDraws, DrawnNow, Fleet, Order
from support.autoscaling.latency import erlang_c_wait, waits_seconds
from support.errors import SchemaError
from support.forecasting import RollingQuantiles
from support.writing import plural

__all__ = ["Observation", "Policy", "Run", "erlang_c_wait", "guard", "simulate"]

BETWEEN = "between two control ticks"
NOTHING = np.empty(0)


@dataclass(slots=True)
class Observation:
    """What a policy may know before tick t: everything through tick t - 1 - lag, nothing of tick t.

    arrivals, served, queue, lost (dropped or given up): (t - lag,) per tick, requests. utilization: (t - lag,) fraction
    of the capacity used; 1 where work met no server, 0 without either. servers: (t - lag,) that served. Of the fleet
    the policy knows the present: active, booting and draining servers, pipeline (age in ticks, servers) of each
    order that boots, the oldest first. row: position in the forecast.
    """

    tick: int
    row: int
    active: int
    booting: int
    cooldown_left: int
    arrivals: np.ndarray
    served: np.ndarray
    queue: np.ndarray
    lost: np.ndarray = field(default_factory=lambda: NOTHING)
    utilization: np.ndarray = field(default_factory=lambda: NOTHING)
    servers: np.ndarray = field(default_factory=lambda: NOTHING)
    pipeline: tuple[tuple[int, int], ...] = ()
    draining: int = 0


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
    """What happened: `ticks` has one row per tick, `costs` the bill in USD by part; their sum is the score.

    ticks: arrivals, served, dropped (no room), abandoned (out of patience), queue: requests; servers (active), booting,
    draining, started, stopped, failed (given up now), billed (server-ticks); utilization (fraction); wait_seconds;
    cost_usd; reason.
    """

    policy: str
    environment: Environment
    ticks: pd.DataFrame
    costs: dict[str, float]

    @property
    def cost_usd(self) -> float:
        """The whole bill."""
        return sum(self.costs.values())


def guard(desired: int, total: int, cooldown_left: int, environment: Environment, *, draining: int = 0) -> int:
    """Servers that may really be asked for: cooldown, step limits, bounds, quota. Shared by simulator and optimum.

    The bounds win over the step limits, which matters only where failed servers left fewer than the minimum.

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
    allowed = min(max(desired, environment.min_servers), environment.max_servers)
    if environment.quota_servers is not None and allowed > total:
        allowed = max(total, min(allowed, environment.quota_servers - draining))
    return allowed


def simulate(
    demand: pd.Series, policy: Policy, environment: Environment, *, forecast: RollingQuantiles | None = None,
    initial_servers: int | None = None, rng: np.random.Generator | None = None, boots: BootDraws | None = None,
) -> Run:  # fmt: skip
    """Run `policy` over `demand` (n_time,), requests per tick, on a UTC index with the environment's tick.

    forecast: rows aligned with `demand`. initial_servers: active at the start (default: what carries the first tick).
    rng or boots (drawn beforehand): needed if boots are random. Raises SchemaError if tick, forecast or luck misfit.
    Source: the order of events is that of the chapter on autoscaling policies.
    """
    work = demand.to_numpy(dtype=np.float64)
    _check(demand, work, environment, forecast, rng, boots)
    luck = DrawnNow(environment, rng) if boots is None else boots
    mu, lag, every = environment.capacity_per_tick, environment.metric_lag_ticks, environment.control_every_ticks
    fleet = Fleet.of(first_servers(work[0], initial_servers, environment), environment)
    cooldown, n_time, arriving = 0, len(work), work.tolist()
    patience, limit = environment.queue_patience_ticks, environment.queue_limit
    waiting: list[float] = [0.0] * (patience or 0)  # by age, the youngest first
    queue = 0.0
    served, dropped, abandoned, waits, used, lost = (np.zeros(n_time) for _ in range(6))
    servers, pending, draining, started, stopped, failed, billed = (np.zeros(n_time, dtype=np.int64) for _ in range(7))
    reasons: list[str] = []
    state = policy.prepare(environment, forecast)
    for t in range(n_time):
        if fleet.leaving:
            fleet.finish_drain(t)
        active, booting, leaving = fleet.active, fleet.booting, fleet.draining
        change, reason = 0, BETWEEN
        if t % every == 0:
            known = max(t - lag, 0)
            seen = Observation(  # 1 observe
                t, t, active, booting, cooldown, work[:known], served[:known], waits[:known],
                lost[:known], used[:known], servers[:known], fleet.pipeline(t), leaving,
            )  # fmt: skip
            state, desired, reason = policy.act(state, seen)  # 2 decide
            total = active + booting
            change = guard(int(desired), total, cooldown, environment, draining=leaving) - total  # 3 guard
        if change > 0:  # 4 apply
            delay, bad = luck.order(t, change)
            fleet.orders.append(Order(t, t + delay, change - bad, bad))
            started[t] = change
        elif change < 0:
            fleet.stop(-change, t)
            stopped[t] = -change
        cooldown = environment.cooldown_ticks if change else max(cooldown - 1, 0)
        if fleet.orders:  # 5 boot completion
            failed[t] = fleet.boot(t)
            pending[t] = fleet.booting
        active = fleet.active
        if patience is None:
            offered = queue + arriving[t]  # 6 arrivals
            done = min(offered, active * mu)  # 7 serve, first in first out
            queue = min(offered - done, limit)  # 8 queue and overflow
            lost[t] = dropped[t] = offered - done - queue
        else:
            done, abandoned[t], dropped[t], waiting = serve_by_age([arriving[t], *waiting], active * mu, limit)
            queue, lost[t] = _total_of(waiting), dropped[t] + abandoned[t]
        served[t], waits[t], servers[t], draining[t] = done, queue, active, fleet.draining
        used[t] = done / (active * mu) if active else float(queue + lost[t] > 0)
        billed[t] = fleet.billed(t)
        reasons.append(reason)
    flow = {"served": served, "dropped": dropped, "abandoned": abandoned, "queue": waits, "utilization": used}
    count = {
        "servers": servers, "booting": pending, "draining": draining, "started": started, "stopped": stopped,
        "failed": failed, "billed": billed,
    }  # fmt: skip
    return _bill(demand, policy.name, environment, flow, count, reasons)


def first_servers(arriving: float, initial_servers: int | None, environment: Environment) -> int:
    """Servers at the start, within the bounds: as given, or what carries the first tick's arrivals."""
    first = math.ceil(arriving / environment.capacity_per_tick) if initial_servers is None else initial_servers
    most = min(environment.max_servers, environment.quota_servers or environment.max_servers)
    return min(max(first, environment.min_servers), most)


def serve_by_age(work: list[float], capacity: float, limit: float) -> tuple[float, float, float, list[float]]:
    """One tick of a queue whose callers lose patience: (served, abandoned, dropped, waiting by age).

    work: requests by age in ticks, those of this tick first; the last entry has run out of patience unless it is
    served now. The oldest are served first and keep their places first. waiting: one entry less than `work`.

    Example:
        >>> serve_by_age([5.0, 4.0, 3.0], 2.0, 8.0)  # the oldest: 2 served, 1 gives up; 4 stay, 4 of 5 find room
        (2.0, 1.0, 1.0, [4.0, 4.0])
    """
    served = dropped = abandoned = 0.0
    left, room = capacity, limit
    kept = list(work)
    for age in reversed(range(len(work))):
        done = min(work[age], left)
        left, served, rest = left - done, served + done, work[age] - done
        if age == len(work) - 1:
            abandoned = rest
        else:
            kept[age] = min(rest, room)
            room, dropped = room - kept[age], dropped + (rest - kept[age])
    return served, abandoned, dropped, kept[:-1]


def _total_of(waiting: list[float]) -> float:
    """Requests that wait, summed from the oldest on."""
    total = 0.0
    for amount in reversed(waiting):
        total += amount
    return total


def _check(
    demand: pd.Series,
    work: np.ndarray,
    environment: Environment,
    forecast: RollingQuantiles | None,
    rng: np.random.Generator | None,
    boots: BootDraws | None,
) -> None:
    if len(work) < 2 or not np.isfinite(work).all() or (work < 0).any():
        raise SchemaError("simulate: demand needs at least two ticks, all finite and not negative.")
    steps = np.diff(demand.index.asi8)
    if (uneven := np.flatnonzero(steps != steps[0])).size:
        raise SchemaError(
            f"simulate: the step of the demand changes after {demand.index[uneven[0]]}. Fill the grid first."
        )
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
                f"simulate: the forecast sees data {plural(forecast.lag_ticks, 'tick')} old, the policy's are {environment.metric_lag_ticks}."
            )
    if environment.boots_at_random and rng is None and boots is None:
        field_name = "boot_delay_sigma" if environment.boot_delay_sigma else "boot_failure_prob"
        raise SchemaError(f"simulate: {field_name} is positive, so give rng= or boots=.")
    if boots is not None:
        boots.require(len(work), environment.max_servers)


def _bill(
    demand: pd.Series, name: str, environment: Environment, flow: dict[str, np.ndarray], count: dict[str, np.ndarray],
    reasons: list[str],
) -> Run:  # fmt: skip
    """Steps 9 and 10: the bill by part, and the latency that is reported but not billed."""
    arrivals = demand.to_numpy(float)
    parts = {
        "servers": environment.price_server_tick_usd * count["billed"],
        "starts": environment.price_start_usd * count["started"],
        "stops": environment.price_stop_usd * count["stopped"],
        "drops": environment.price_drop_usd * flow["dropped"],
        "abandoned": environment.price_drop_usd * flow["abandoned"],
        "waiting": environment.price_wait_tick_usd * flow["queue"],
    }
    wait = waits_seconds(arrivals, flow["queue"], flow["dropped"] + flow["abandoned"], count["servers"], environment)
    columns = {"arrivals": arrivals} | flow | count
    ticks = pd.DataFrame(
        columns | {"wait_seconds": wait, "cost_usd": sum(parts.values()), "reason": reasons}, index=demand.index
    )
    return Run(name, environment, ticks, {part: float(cost.sum()) for part, cost in parts.items()})
