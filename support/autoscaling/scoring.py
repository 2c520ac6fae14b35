"""What a run was worth: bill, drops, SLO by request and by minute, churn, over- and under-provisioning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from support.autoscaling.policies import servers_for
from support.autoscaling.simulate import Run

__all__ = ["cost_difference", "score", "score_table"]


def score(run: Run) -> dict[str, float]:
    """The scores of one run.

    cost_usd; dropped_percent and late_percent of the requests; request_slo_percent; minute_slo_percent: ticks without
    a drop and with a wait within the SLO; churn_percent: ticks with a change; starts_per_day; mean_servers;
    slack_percent: 1 - used / provided capacity; under_percent, over_percent: mean relative shortage and surplus of
    servers against the demand in servers (theta_U, theta_O of Herbst et al., 2018, with u* = 1).
    """
    ticks, world = run.ticks, run.environment
    arrivals = max(float(ticks["arrivals"].sum()), 1e-12)
    late = ticks["wait_seconds"] > world.slo_wait_seconds
    late_requests = float((ticks["arrivals"] - ticks["dropped"]).clip(lower=0)[late].sum())
    days = len(ticks) * world.tick_seconds / 86_400
    need, have = servers_for(ticks["arrivals"].to_numpy(), world), ticks["servers"].to_numpy()
    needed = np.maximum(need, 1)
    return {
        "cost_usd": run.cost_usd,
        "dropped_percent": 100 * float(ticks["dropped"].sum()) / arrivals,
        "late_percent": 100 * late_requests / arrivals,
        "request_slo_percent": 100 * (1 - (float(ticks["dropped"].sum()) + late_requests) / arrivals),
        "minute_slo_percent": 100 * float(((ticks["dropped"] <= 0) & ~late).mean()),
        "churn_percent": 100 * float(((ticks["started"] > 0) | (ticks["stopped"] > 0)).mean()),
        "starts_per_day": float(ticks["started"].sum()) / days,
        "mean_servers": float(have.mean()),
        "slack_percent": 100
        * (1 - float(ticks["served"].sum()) / max(float(have.sum()) * world.capacity_per_tick, 1e-12)),
        "under_percent": 100 * float((np.maximum(need - have, 0) / needed).mean()),
        "over_percent": 100 * float((np.maximum(have - need, 0) / needed).mean()),
    }


def score_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores of several runs on the same demand, one row a policy, in the order given."""
    return pd.DataFrame([score(run) for run in runs], index=pd.Index([run.policy for run in runs], name="policy"))


def cost_difference(
    run: Run, baseline: Run, *, rng: np.random.Generator, n_draws: int = 2000, level: float = 0.9
) -> tuple[float, float, float]:
    """Saving of `run` against `baseline` as a fraction of the baseline's cost: (estimate, lower, upper).

    The interval is a paired bootstrap over whole days (Kunsch, 1989): both runs met the same demand, so each drawn day
    brings its two costs together. With fewer than two days the bounds are infinite.
    """
    day = run.ticks.index.floor("D")
    costs = (
        pd.DataFrame({"run": run.ticks["cost_usd"], "base": baseline.ticks["cost_usd"]}).groupby(day).sum().to_numpy()
    )
    estimate = 1 - costs[:, 0].sum() / costs[:, 1].sum()
    if len(costs) < 2:
        return float(estimate), -np.inf, np.inf
    drawn = costs[rng.integers(0, len(costs), (n_draws, len(costs)))].sum(axis=1)
    low, high = np.quantile(1 - drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(estimate), float(low), float(high)
