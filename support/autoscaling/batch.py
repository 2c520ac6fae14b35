"""Whole grids of environments, policies and traces in one compiled run; the readable twin is `simulate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pandas as pd

from support.autoscaling.engine import run_scan
from support.autoscaling.engine_arrays import KINDS, Given, Rules, Shape, World
from support.autoscaling.environment import Environment
from support.autoscaling.fleet import BootDraws
from support.autoscaling.latency import prompt_loads
from support.autoscaling.policies import ForecastMean, Newsvendor, Reactive, Static
from support.autoscaling.rules import Plan, TargetTracking, Thresholds
from support.autoscaling.scoring import budget_burn
from support.autoscaling.simulate import Policy, first_servers
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["Batch", "BatchRun", "prepare_batch", "run_batch"]

NO_LIMIT = 2**30  # servers; a total plus this still fits 32 bits
TICK_COLUMNS = (
    "servers", "booting", "draining", "started", "stopped", "failed", "billed", "served", "dropped", "abandoned",
    "queue", "late",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Everything `run_batch` needs, on the host: environments and policies as arrays, the traces, the starts."""

    shape: Shape
    world: World
    rules: Rules
    given: Given
    first: np.ndarray
    environments: tuple[Environment, ...]
    arrivals: np.ndarray  # (n_env,), requests of the whole trace


@dataclass(frozen=True)
class BatchRun:
    """What happened in each environment. costs: USD by part, (n_env,); totals: sums over the ticks.

    ticks: the columns of `Run.ticks` (and whether the wait was late), (n_time, n_env), where they were kept.
    """

    costs: dict[str, np.ndarray]
    totals: dict[str, np.ndarray]
    ticks: dict[str, np.ndarray]
    n_time: int
    environments: tuple[Environment, ...]
    arrivals: np.ndarray

    @property
    def cost_usd(self) -> np.ndarray:
        """The whole bill, (n_env,)."""
        return np.sum(list(self.costs.values()), axis=0)

    def scores(self) -> pd.DataFrame:
        """The scores of `score` that need only sums, one row an environment."""
        sums, n_time = self.totals, self.n_time
        arrivals = np.maximum(self.arrivals, 1e-12)
        tick = _each(self.environments, lambda e: e.tick_seconds)
        capacity = _each(self.environments, lambda e: e.capacity_per_tick)
        control = _each(self.environments, lambda e: -(-n_time // e.control_every_ticks))
        lost = sums["dropped"] + sums["abandoned"]
        request_slo, minute_slo = 1 - (lost + sums["late"]) / arrivals, 1 - sums["bad_ticks"] / n_time
        targets = _each(self.environments, lambda e: e.slo_target_frac)
        return pd.DataFrame(
            {
                "cost_usd": self.cost_usd,
                "dropped_percent": 100 * sums["dropped"] / arrivals,
                "abandoned_percent": 100 * sums["abandoned"] / arrivals,
                "late_percent": 100 * sums["late"] / arrivals,
                "request_slo_percent": 100 * request_slo,
                "minute_slo_percent": 100 * minute_slo,
                "churn_percent": 100 * sums["changes"] / control,
                "starts_per_day": sums["started"] / (n_time * tick / 86_400),
                "mean_servers": sums["servers"] / n_time,
                "slack_percent": 100 * (1 - sums["served"] / np.maximum(sums["servers"] * capacity, 1e-12)),
                "request_budget_burn": [budget_burn(*pair) for pair in zip(request_slo, targets, strict=True)],
                "minute_budget_burn": [budget_burn(*pair) for pair in zip(minute_slo, targets, strict=True)],
            }
        )


def prepare_batch(
    demand: np.ndarray, policies: Sequence[Policy], environments: Sequence[Environment], *,
    trace: np.ndarray | None = None, forecasts: Sequence[RollingQuantiles | None] = (None,),
    initial_servers: np.ndarray | None = None, boots: Sequence[BootDraws] = (),
) -> Batch:  # fmt: skip
    """Arrays for `run_batch`. Sequences of one are used for every environment, the others have n_env entries.

    demand: (n_time,) or (n_trace, n_time), requests per tick. trace: (n_env,) the row of each environment (default: its
    own). boots: needed where boots are random. Policies: static, reactive, thresholds, target tracking, plans, and the
    forecast's mean and quantile (newsvendor), whose plans come from `forecasts`.
    Raises SchemaError for lengths that disagree, other policies, bad demand, forecasts fresher than the metrics, boots
    for fewer ticks or servers, or billing in blocks.
    """
    work = np.atleast_2d(np.asarray(demand, dtype=np.float64))
    if work.shape[1] < 2 or not np.isfinite(work).all() or (work < 0).any():
        raise SchemaError("batch: demand needs at least two ticks, all finite and not negative.")
    rows = np.arange(len(work)) if trace is None else np.asarray(trace)
    sizes = {
        "traces": len(rows), "policies": len(policies), "environments": len(environments), "forecasts": len(forecasts),
        "boots": len(boots) or 1,
    }  # fmt: skip
    n_env = max(sizes.values())
    if wrong := {name: size for name, size in sizes.items() if size not in (1, n_env)}:
        raise SchemaError(f"batch: {wrong} do not fit a batch of {n_env}; give one or as many.")
    if len(rows) < n_env:
        rows = np.full(n_env, rows[0])
    worlds = [environments[i % len(environments)] for i in range(n_env)]
    acting = [policies[i % len(policies)] for i in range(n_env)]
    if any(w.billing_block_ticks > 1 for w in worlds):
        raise SchemaError("batch: billing_block_ticks above 1 is known to simulate only.")
    if any(w.boots_at_random for w in worlds) and not boots:
        raise SchemaError("batch: boots are random, so give boots=.")
    if len({w.queue_patience_ticks is None for w in worlds}) > 1:
        raise SchemaError("batch: queues with and without patience cannot share a batch; make two.")
    if len({w.max_servers for w in worlds}) > 1 and any(w.boots_at_random for w in worlds):
        raise SchemaError("batch: where boots are random all environments need the same max_servers.")

    asked = [forecasts[i % len(forecasts)] for i in range(n_env)]
    if any(f is not None and f.lag_ticks < w.metric_lag_ticks for f, w in zip(asked, worlds, strict=True)):
        raise SchemaError("batch: a forecast sees newer data than the metrics of its environment; give it their lag.")
    for drawn in boots:
        drawn.require(work.shape[1], max(w.max_servers for w in worlds))
    rules, wanted, plan = _rules(acting, worlds, asked, work.shape[1])
    prompt, pair = _prompt(work, rows, worlds)
    delays, failures = _luck(boots, work.shape[1])
    longest = max(w.boot_delay_ticks for w in worlds) if delays is None else int(delays.max())
    if boots and any(w.boot_failure_prob for w in worlds):
        longest = max(longest, *(w.boot_timeout_ticks for w in worlds))
    first = [first_servers(work[r, 0], None, w) for r, w in zip(rows, worlds, strict=True)]
    if initial_servers is not None:
        sizes_asked = np.broadcast_to(initial_servers, (n_env,))
        first = [first_servers(0.0, int(n), w) for n, w in zip(sizes_asked, worlds, strict=True)]
    own = len(work) == n_env and trace is None
    shape = Shape(
        tuple(k for i, k in enumerate(KINDS) if (rules.kind == i).any()), n_env,
        max(w.metric_lag_ticks for w in worlds), longest, max(w.drain_ticks for w in worlds),
        _longest_patience(worlds), bool(boots), False,
    )  # fmt: skip
    given = Given(_by_tick(work), prompt, wanted, None if own else rows, pair, plan, delays, failures)
    return Batch(shape, _world(worlds), rules, given, np.array(first), tuple(worlds), work.sum(axis=1)[rows])


def run_batch(batch: Batch, *, keep_ticks: bool = False) -> BatchRun:
    """Run every environment of `batch`; compiled once for each size and mixture of rules.

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=2)
        >>> run = run_batch(prepare_batch(np.full(90, 150.0), [Static(2), Static(3), Reactive(0.9)], [world]))
        >>> run.scores()["dropped_percent"].round(3).tolist()
        [20.0, 0.0, 0.0]
    """
    with jax.enable_x64(True):
        totals, kept = run_scan(
            replace(batch.shape, keep=keep_ticks), batch.world, batch.rules, batch.given, batch.first
        )
        sums = {name: np.asarray(value) for name, value in totals._asdict().items()}
    worlds = batch.environments
    price = {
        "servers": _each(worlds, lambda e: e.price_server_tick_usd) * sums["billed"],
        "starts": _each(worlds, lambda e: e.price_start_usd) * sums["started"],
        "stops": _each(worlds, lambda e: e.price_stop_usd) * sums["stopped"],
        "drops": _each(worlds, lambda e: e.price_drop_usd) * sums["dropped"],
        "abandoned": _each(worlds, lambda e: e.price_drop_usd) * sums["abandoned"],
        "waiting": _each(worlds, lambda e: e.price_wait_tick_usd) * sums["waiting"],
    }
    ticks = dict(zip(TICK_COLUMNS, map(np.asarray, kept), strict=True)) if keep_ticks else {}
    return BatchRun(price, sums, ticks, len(batch.given.arrivals), worlds, batch.arrivals)


def _each(objects: Sequence[Any], value: Callable[[Any], float]) -> np.ndarray:
    """`value` of each object, (n,); asked once of each different one."""
    known = {id(o): value(o) for o in {id(o): o for o in objects}.values()}
    return np.array([known[id(o)] for o in objects])


def _column(values: np.ndarray, kind: type) -> np.ndarray:
    """`values` (n,) as `kind`, but () where all agree: what is the same everywhere is computed once."""
    column: np.ndarray = values.astype(kind)
    return column[0] if (column == column[0]).all() else column


def _world(worlds: Sequence[Environment]) -> World:
    def number(value: Callable[[Environment], float]) -> np.ndarray:
        return _column(_each(worlds, value), np.float64)

    def count(value: Callable[[Environment], int | None]) -> np.ndarray:
        asked = [value(e) for e in worlds]
        return _column(np.array([NO_LIMIT if n is None else n for n in asked]), np.int32)

    return World(
        capacity=number(lambda e: e.capacity_per_tick), rate=number(lambda e: e.service_rate_rps),
        delay=count(lambda e: e.boot_delay_ticks), cooldown=count(lambda e: e.cooldown_ticks),
        least=count(lambda e: e.min_servers), most=count(lambda e: e.max_servers),
        step_up=count(lambda e: e.max_step_up), step_down=count(lambda e: e.max_step_down),
        quota=count(lambda e: e.quota_servers),
        limit=number(lambda e: e.queue_limit), lag=count(lambda e: e.metric_lag_ticks),
        every=count(lambda e: e.control_every_ticks), drain=count(lambda e: e.drain_ticks),
        patience=count(lambda e: e.queue_patience_ticks), timeout=count(lambda e: e.boot_timeout_ticks),
        slo_wait=number(lambda e: e.slo_wait_seconds),
    )  # fmt: skip


def _rules(
    policies: Sequence[Policy], worlds: Sequence[Environment], forecasts: Sequence[RollingQuantiles | None], n_time: int
) -> tuple[Rules, np.ndarray | None, np.ndarray | None]:
    """Policies as numbers, and the plans with the column of each environment; a plan is made once for each use."""
    kinds, columns = np.zeros(len(policies), dtype=np.int32), np.zeros(len(policies), dtype=np.int32)
    plans: list[np.ndarray] = []
    numbers = {name: np.ones(len(policies)) for name in Rules._fields}
    made: dict[tuple[int, int, int], int] = {}
    for i, (policy, world, forecast) in enumerate(zip(policies, worlds, forecasts, strict=True)):
        if isinstance(policy, Static):
            numbers["constant"][i] = policy.servers
        elif isinstance(policy, Reactive):
            kinds[i], numbers["per_server"][i] = KINDS.index("reactive"), policy.prepare(world, forecast)
        elif isinstance(policy, Plan | ForecastMean | Newsvendor):
            kinds[i] = KINDS.index("plan")
            key = (id(policy), id(world), id(forecast))
            if key not in made:
                made[key] = len(plans)
                ready = policy.wanted if isinstance(policy, Plan) else policy.prepare(world, forecast)
                plans.append(ready[0] if isinstance(ready, tuple) else ready)
            columns[i] = made[key]
        elif isinstance(policy, Thresholds | TargetTracking):
            policy.prepare(world, forecast)
            kinds[i] = KINDS.index("thresholds" if isinstance(policy, Thresholds) else "tracking")
            for name in set(Rules._fields) & set(vars(policy)):
                numbers[name][i] = getattr(policy, name)
            if isinstance(policy, TargetTracking):
                numbers["low_target"][i] = policy.in_share * policy.target
        else:
            raise SchemaError(f"batch: {policy.name} ({type(policy).__name__}) has no compiled twin; use simulate.")
    if any(len(p) < n_time for p in plans):
        raise SchemaError(f"batch: a plan or forecast has fewer than the demand's {n_time} ticks.")
    wholes = ("constant", "step_up", "step_down", "out_points", "in_points")
    leaves = {
        name: _column(values, np.int32 if name in wholes else np.float64)
        for name, values in numbers.items()
        if name != "kind"
    }
    rules = Rules(kind=kinds, **leaves)
    if not plans:
        return rules, None, None
    wanted = _by_tick(np.clip(np.array([p[:n_time] for p in plans]), -NO_LIMIT, NO_LIMIT)).astype(np.int32)
    return rules, wanted, None if len(plans) == len(policies) else columns


def _prompt(work: np.ndarray, rows: np.ndarray, worlds: Sequence[Environment]) -> tuple[np.ndarray, np.ndarray | None]:
    """Fewest servers that meet the SLO's wait at each tick, for each different pair of trace and environment."""
    loads: dict[tuple[float, ...], np.ndarray] = {}
    made: dict[tuple[Any, ...], int] = {}
    columns = np.zeros(len(rows), dtype=np.int32)
    found: list[np.ndarray] = []
    for i, (row, world) in enumerate(zip(rows, worlds, strict=True)):
        promise = (world.service_rate_rps, world.slo_wait_seconds, world.max_servers)
        key = (int(row), world.tick_seconds, *promise)
        if key not in made:
            made[key] = len(found)
            if promise not in loads:
                loads[promise] = prompt_loads(world)
            found.append(np.searchsorted(loads[promise], work[row] / world.tick_seconds).astype(np.int32))
        columns[i] = made[key]
    return _by_tick(np.array(found)), None if len(found) == len(rows) else columns


def _luck(boots: Sequence[BootDraws], n_time: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Delays and failures of the orders, by tick first."""
    if not boots:
        return None, None
    if len(boots) == 1:
        return boots[0].delays[:n_time].astype(np.int32), boots[0].failures[:n_time].astype(np.int32)
    delays = np.array([b.delays[:n_time] for b in boots], dtype=np.int32)
    return _by_tick(delays), _by_tick(np.array([b.failures[:n_time] for b in boots], dtype=np.int32))


def _longest_patience(worlds: Sequence[Environment]) -> int | None:
    known = [w.queue_patience_ticks for w in worlds if w.queue_patience_ticks is not None]
    return max(known) if known else None


def _by_tick(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(values, 0, 1))
