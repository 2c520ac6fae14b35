"""What a run was worth: bill, drops, SLO by request and by minute, churn, over- and under-provisioning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from support.autoscaling.policies import servers_for
from support.autoscaling.simulate import Run
from support.errors import SchemaError

__all__ = ["block_seconds", "budget_burn", "cost_difference", "elasticity", "score", "score_table"]

SECONDS_PER_DAY = 86_400
LEAST_DAYS, BLOCKS_OF_SHORT = 3, 10  # a test of fewer days is drawn in so many blocks


def score(run: Run) -> dict[str, float]:
    """The scores of one run.

    cost_usd; dropped_percent, abandoned_percent and late_percent of the requests. Two service levels, never one for
    the other: request_slo_percent, requests neither lost nor late; minute_slo_percent, ticks without a loss and with a
    wait within the SLO. request_budget_burn, minute_budget_burn: (1 - SLO) / (1 - target), 1 spends the error budget
    exactly. churn_percent: control ticks with a change; starts_per_day; mean_servers; slack_percent: 1 - used /
    provided capacity; under_percent, over_percent as `elasticity` at a target of 1. wait_p95_seconds, wait_p99_seconds
    over the ticks.
    """
    ticks, world = run.ticks, run.environment
    arrivals = max(float(ticks["arrivals"].sum()), 1e-12)
    late = ticks["wait_seconds"] > world.slo_wait_seconds
    gone = pd.Series(ticks.get("abandoned", 0.0), index=ticks.index)  # given up, out of patience
    lost = ticks["dropped"] + gone
    late_requests = float((ticks["arrivals"] - lost).clip(lower=0)[late].sum())
    days = len(ticks) * world.tick_seconds / SECONDS_PER_DAY
    have, spec = ticks["servers"].to_numpy(), elasticity(run)
    request_slo = 1 - (float(lost.sum()) + late_requests) / arrivals
    minute_slo = float(((lost <= 0) & ~late).mean())
    changes = int(((ticks["started"] > 0) | (ticks["stopped"] > 0)).sum())
    return {
        "cost_usd": run.cost_usd,
        "dropped_percent": 100 * float(ticks["dropped"].sum()) / arrivals,
        "late_percent": 100 * late_requests / arrivals,
        "request_slo_percent": 100 * request_slo,
        "minute_slo_percent": 100 * minute_slo,
        "churn_percent": 100 * changes / math.ceil(len(ticks) / world.control_every_ticks),
        "starts_per_day": float(ticks["started"].sum()) / days,
        "mean_servers": float(have.mean()),
        "slack_percent": 100
        * (1 - float(ticks["served"].sum()) / max(float(have.sum()) * world.capacity_per_tick, 1e-12)),
        "under_percent": spec["under_percent"],
        "over_percent": spec["over_percent"],
        "abandoned_percent": 100 * float(gone.sum()) / arrivals,
        "request_budget_burn": budget_burn(request_slo, world.slo_target_frac),
        "minute_budget_burn": budget_burn(minute_slo, world.slo_target_frac),
        "wait_p95_seconds": float(ticks["wait_seconds"].quantile(0.95, interpolation="higher")),
        "wait_p99_seconds": float(ticks["wait_seconds"].quantile(0.99, interpolation="higher")),
    }


def elasticity(run: Run, target_utilization: float = 1.0) -> dict[str, float]:
    """The elasticity metrics of the SPEC research group: how supply follows demand, both in servers.

    Demand is ceil(arrivals / (mu u*)) with u* = `target_utilization` (fraction): 1 is what physics asks for, a policy's
    own target what its engineers ask for; at 1 any margin looks like waste. Supply is the servers that serve.
    under_percent, over_percent: mean shortage and surplus relative to the demand, at least one server (theta_U,
    theta_O); under_time_percent, over_time_percent: share of ticks with one (tau_U, tau_O); instability_percent: share
    of steps in which the two change in different directions (upsilon); jitter_per_minute: servers started or stopped
    beyond those by which demand moved, negative where supply moves less. Source: Herbst et al. (2018), as implemented
    in BUNGEE for the unit of the jitter. Raises SchemaError for a target outside (0, 1].
    """
    if not 0 < target_utilization <= 1:
        raise SchemaError(f"elasticity: target_utilization is {target_utilization}, it must lie in (0, 1].")
    ticks, world = run.ticks, run.environment
    need, have = servers_for(ticks["arrivals"].to_numpy() / target_utilization, world), ticks["servers"].to_numpy()
    short, at_least_one = need - have, np.maximum(need, 1)
    wanted, done = np.diff(need), np.diff(have)
    minutes = len(ticks) * world.tick_seconds / 60
    return {
        "under_percent": 100 * float((np.maximum(short, 0) / at_least_one).mean()),
        "over_percent": 100 * float((np.maximum(-short, 0) / at_least_one).mean()),
        "under_time_percent": 100 * float((short > 0).mean()),
        "over_time_percent": 100 * float((short < 0).mean()),
        "instability_percent": 100 * float((np.sign(done) != np.sign(wanted)).mean()),
        "jitter_per_minute": float(np.abs(done).sum() - np.abs(wanted).sum()) / minutes,
    }


def budget_burn(slo_frac: float, target_frac: float) -> float:
    """Share of the error budget spent: (1 - SLO) / (1 - target); a target of 1 leaves no budget.

    Example:
        >>> round(budget_burn(0.998, 0.999), 9), budget_burn(1.0, 1.0), budget_burn(0.9, 1.0)
        (2.0, 0.0, inf)
    """
    missed = 1 - slo_frac
    if target_frac >= 1:
        return math.inf if missed > 0 else 0.0
    return missed / (1 - target_frac)


def block_seconds(test: pd.Series) -> float:
    """Length of the blocks in which `cost_difference` draws the ticks of `test`: a day, or a tenth of less than three days.

    Example:
        >>> block_seconds(pd.Series(0.0, index=pd.date_range("2026-01-01", periods=144, freq="10s")))
        150.0
    """
    tick = (test.index[1] - test.index[0]).total_seconds()
    if len(test) * tick >= LEAST_DAYS * SECONDS_PER_DAY:
        return float(SECONDS_PER_DAY)
    return math.ceil(len(test) / BLOCKS_OF_SHORT) * tick


def score_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores of several runs on the same demand, one row a policy, in the order given."""
    return pd.DataFrame([score(run) for run in runs], index=pd.Index([run.policy for run in runs], name="policy"))


def cost_difference(
    run: Run,
    baseline: Run,
    *,
    rng: np.random.Generator,
    n_draws: int = 2000,
    level: float = 0.9,
    block_seconds: float = SECONDS_PER_DAY,
) -> tuple[float, float, float]:
    """Saving of `run` against `baseline` as a fraction of the baseline's cost: (estimate, lower, upper).

    The interval is a paired bootstrap over whole blocks of `block_seconds`, days unless said otherwise (Kunsch, 1989):
    both runs met the same demand, so each drawn block brings its two costs together. With fewer than two blocks the
    bounds are infinite.
    """
    block = run.ticks.index.floor(pd.Timedelta(seconds=block_seconds))
    costs = (
        pd.DataFrame({"run": run.ticks["cost_usd"], "base": baseline.ticks["cost_usd"]}).groupby(block).sum().to_numpy()
    )
    estimate = 1 - costs[:, 0].sum() / costs[:, 1].sum()
    if len(costs) < 2:
        return float(estimate), -np.inf, np.inf
    drawn = costs[rng.integers(0, len(costs), (n_draws, len(costs)))].sum(axis=1)
    low, high = np.quantile(1 - drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(estimate), float(low), float(high)
