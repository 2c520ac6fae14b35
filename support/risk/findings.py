"""What is wrong with each resource's size: idle, zombie, under-provisioned, over-provisioned, optimised, or too little data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from support.risk.usage import Usage

__all__ = ["FINDINGS", "find"]

FINDINGS = ("insufficient_data", "zombie", "idle", "under_provisioned", "over_provisioned", "optimised")
IDLE_SHARE, IDLE_LEVEL = 0.05, 0.99  # CPU of an idle machine: P99 below 5 % of what it has
IDLE_NETWORK_MBPS = 5 * 8 / 86_400  # 5 MB a day: AWS's limit for an idle instance
LEAST_HOURS = 30.0  # measured hours: what Compute Optimizer wants to see


def find(
    usage: Usage, required: Mapping[str, np.ndarray], catalogue: pd.DataFrame, *,
    size_now: np.ndarray, proposed: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    """One row a resource: `finding`, `binding_dimension`, `cpu_p99_share`, `network_mbps`, `measured_hours`.

    required: dimension -> (n_resource,) what each needs, by a rule or a model. catalogue: its sizes with price_per_hour.
    size_now, proposed: positions in it of today's size and of the one that holds what is required. The first that applies:
    insufficient_data (less than 30 measured hours); zombie (CPU below 5 % at every moment and no network); idle (P99 of CPU
    below 5 % and no network); under_provisioned (any dimension needs more than it has, or only a dearer size will do);
    over_provisioned (none does, and a cheaper size holds all); optimised. Where network was not measured, CPU decides
    alone. binding_dimension: the one that needs the largest share of what it has.
    """
    n = len(usage.resources)
    cpu, cores = usage.demand["cpu"], usage.capacity["cpu"]
    measured = np.isfinite(cpu)
    hours = measured.sum(axis=1) * usage.step_hours
    seen = measured.any(axis=1)
    p99, most, flow = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    p99[seen] = np.nanquantile(cpu[seen], IDLE_LEVEL, axis=1) / cores[seen]
    most[seen] = np.nanmax(cpu[seen], axis=1) / cores[seen]
    if "network" in usage.demand:
        flowing = np.isfinite(usage.demand["network"]).any(axis=1)
        flow[flowing] = np.nanmean(usage.demand["network"][flowing], axis=1)
    quiet = ~(flow >= IDLE_NETWORK_MBPS)
    dimensions = [d for d in required if d in usage.capacity]
    need = np.stack([np.nan_to_num(required[d]) / usage.capacity[d] for d in dimensions], axis=1)
    price = catalogue["price_per_hour"].to_numpy(float)
    rules = [
        hours < LEAST_HOURS,
        quiet & (most < IDLE_SHARE),
        quiet & (p99 < IDLE_SHARE),
        (need > 1 + 1e-9).any(axis=1) | (price[proposed] > price[size_now]),
        price[proposed] < price[size_now],
    ]
    return pd.DataFrame(
        {
            "finding": np.select(rules, FINDINGS[:-1], FINDINGS[-1]),
            "binding_dimension": np.array(dimensions)[need.argmax(axis=1)],
            "cpu_p99_share": p99,
            "network_mbps": flow,
            "measured_hours": hours,
        },
        index=usage.resources.index,
    )
