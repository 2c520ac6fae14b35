"""Who pays for a machine: allocation by max(request, usage), idle cost, efficiency, and waste beyond the headroom."""

from __future__ import annotations

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.schema import Telemetry

__all__ = ["IDLE", "allocate", "estate_waste", "split_price", "waste"]

IDLE = "__idle__"  # the row of what nobody asked for
# USD per core-hour and per GiB-hour: defaults of OpenCost, configs/default.json, "based on GCP us-central1"; only their
# ratio is used, to split the price of a machine into the price of its cores and of its memory.
CPU_USD_PER_HOUR, RAM_USD_PER_HOUR = 0.031611, 0.004237
WORKLOAD_COLUMNS = ("cpu_request", "cpu_usage", "ram_request", "ram_usage")


def split_price(price: float | np.ndarray, vcpu: float | np.ndarray, memory_gib: float | np.ndarray) -> np.ndarray:
    """A machine's price as (cores' part, memory's part) by OpenCost's default prices; shape (2, ...), sums to `price`.

    Example:
        >>> split_price(0.096, 2, 8).round(4).tolist()  # two thirds are the cores
        [0.0625, 0.0335]
    """
    cpu = np.asarray(vcpu, dtype=float) * CPU_USD_PER_HOUR
    both = cpu + np.asarray(memory_gib, dtype=float) * RAM_USD_PER_HOUR
    part = price * cpu / both
    return np.stack([part, price - part])


def allocate(
    workloads: pd.DataFrame, *, cpu_cost: float, ram_cost: float, cpu_hours: float, ram_hours: float
) -> pd.DataFrame:
    """The cost of a machine or cluster over a window, shared among its workloads by max(request, usage).

    workloads: one row each; cpu_request and cpu_usage in core-hours, ram_request and ram_usage in GiB-hours of the
    window. cpu_cost, ram_cost: what the cores and the memory cost in it; cpu_hours, ram_hours: core-hours and
    GiB-hours they are. Returns those rows and IDLE, with cpu_cost, ram_cost, total_cost, cpu_efficiency and
    ram_efficiency (usage over request; 1 where used without a request, NaN where neither) and efficiency, weighted by
    cost. The costs sum to cpu_cost + ram_cost: where more is wanted than there is, everybody's share shrinks and idle
    is 0. Source: OpenCost specification v0.1, workload and idle costs. Raises SchemaError for a missing column, a
    negative or missing number, or a machine without cores or memory.

    Example:
        >>> both = pd.DataFrame({"cpu_request": [2.0, 1.0], "cpu_usage": [1.0, 1.5], "ram_request": [4.0, 4.0],
        ...                      "ram_usage": [4.0, 2.0]}, index=["api", "job"])
        >>> shared = allocate(both, cpu_cost=8.0, ram_cost=4.0, cpu_hours=4.0, ram_hours=16.0)
        >>> shared["total_cost"].tolist(), float(shared.loc["api", "efficiency"])
        ([5.0, 4.0, 3.0], 0.6)
    """
    if lacking := [name for name in WORKLOAD_COLUMNS if name not in workloads]:
        raise SchemaError(f"workloads: no column {lacking[0]!r}. Wanted: {', '.join(WORKLOAD_COLUMNS)}.")
    numbers = workloads[list(WORKLOAD_COLUMNS)].astype(float)
    if not (np.isfinite(numbers) & (numbers >= 0)).to_numpy().all():
        raise SchemaError("workloads: requests and usage must be finite numbers of at least 0. Fill or drop such rows.")
    if IDLE in workloads.index or workloads.index.has_duplicates:
        raise SchemaError(f"workloads: names must be unique and not {IDLE!r}.")
    if not (min(cpu_cost, ram_cost) >= 0 and min(cpu_hours, ram_hours) > 0):
        raise SchemaError("the machine: costs must be at least 0, cpu_hours and ram_hours above 0.")
    made = pd.DataFrame(index=workloads.index.append(pd.Index([IDLE])))
    shares = {}
    for kind, cost, hours in (("cpu", cpu_cost, cpu_hours), ("ram", ram_cost, ram_hours)):
        request, usage = numbers[f"{kind}_request"], numbers[f"{kind}_usage"]
        taken = np.maximum(request, usage)
        part = cost * taken / max(hours, float(taken.sum()))
        made[f"{kind}_cost"] = [*part, max(cost - float(part.sum()), 0.0)]
        used = (usage / request.where(request > 0)).where(request > 0, np.where(usage > 0, 1.0, np.nan))
        made[f"{kind}_efficiency"] = [*used, np.nan]
        shares[kind] = part
    made["total_cost"] = made["cpu_cost"] + made["ram_cost"]
    weighted = sum(made[f"{k}_efficiency"].fillna(0.0).iloc[:-1] * shares[k] for k in shares)
    spent = made["total_cost"].iloc[:-1]
    made["efficiency"] = [*(weighted / spent.where(spent > 0)), np.nan]
    return made[["cpu_cost", "ram_cost", "total_cost", "cpu_efficiency", "ram_efficiency", "efficiency"]]


def waste(
    provisioned: float | np.ndarray, used: float | np.ndarray, justified: float | np.ndarray
) -> dict[str, np.ndarray]:
    """What is provisioned as used + headroom + waste, each of the shape of the arguments and in their unit.

    justified: the headroom that the risk asks for above `used`, such as the 99 % quantile of demand less its mean.
    headroom is the part of it that is there, `shortage` the part that is not; waste = provisioned - (used + headroom),
    never negative. Raises SchemaError for a negative or missing number.

    Example:
        >>> {name: float(part) for name, part in waste(8.0, 2.0, 3.0).items()}
        {'used': 2.0, 'headroom': 3.0, 'waste': 3.0, 'shortage': 0.0}
    """
    had, did, wanted = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (provisioned, used, justified)))
    if not all((np.isfinite(v) & (v >= 0)).all() for v in (had, did, wanted)):
        raise SchemaError("waste: provisioned, used and justified must be finite numbers of at least 0.")
    inside = np.minimum(did, had)
    headroom = np.minimum(wanted, had - inside)
    shortage = np.maximum(did + wanted - had, 0.0)
    return {"used": inside, "headroom": headroom, "waste": had - inside - headroom, "shortage": shortage}


def estate_waste(telemetry: Telemetry, *, level: float = 0.99) -> pd.DataFrame:
    """Cost of each machine of an estate, split into used, justified headroom and waste; one row per machine.

    Cores and memory are split by `split_price` and judged apart. The justified headroom of each is the `level`
    quantile of its own utilisation less the mean: what must stand ready so that it is exceeded in 1 - level of the
    intervals. Columns: cost_usd, used_usd, headroom_usd, waste_usd (they sum), efficiency (cost-weighted use).
    Machines without vcpu, memory_gib or a metric are left out. Raises SchemaError if none is left, or for telemetry
    without cost.

    Example:
        >>> from support.telemetry import load
        >>> each = estate_waste(load("synthetic:cloud", seed=1, days=2, n_resources=6))
        >>> bool(np.allclose(each[["used_usd", "headroom_usd", "waste_usd"]].sum(axis=1), each["cost_usd"]))
        True
    """
    if not 0 < level < 1:
        raise SchemaError(f"level: {level} must lie between 0 and 1, such as 0.99.")
    frame = telemetry.observations
    metrics = {"cpu": "cpu_utilization", "ram": "memory_utilization"}
    lacking = [m for m in ("cost_usd", *metrics.values()) if m not in frame]
    lacking += [c for c in ("vcpu", "memory_gib") if c not in telemetry.resources]
    if lacking:
        raise SchemaError(
            f"{telemetry.source}: no {lacking[0]}, which waste is made of; there are {telemetry.metrics}."
        )
    by = frame.groupby(level="resource_id")
    sizes = telemetry.resources[["vcpu", "memory_gib"]].astype(float)
    whole = pd.DataFrame({"cost_usd": by["cost_usd"].sum()}).join(sizes)
    whole = whole.join(by[list(metrics.values())].mean()).dropna()
    if whole.empty:
        raise SchemaError(f"{telemetry.source}: no resource has vcpu, memory_gib, CPU and memory utilisation.")
    high = by[list(metrics.values())].quantile(level).reindex(whole.index)
    costs = split_price(whole["cost_usd"].to_numpy(), whole["vcpu"].to_numpy(), whole["memory_gib"].to_numpy())
    parts = dict.fromkeys(("used", "headroom", "waste"), np.zeros(len(whole)))
    for cost, metric in zip(costs, metrics.values(), strict=True):
        mean, top = whole[metric].to_numpy() / 100, high[metric].to_numpy() / 100
        split = waste(np.ones_like(mean), mean, np.maximum(top - mean, 0.0))
        parts = {name: parts[name] + cost * split[name] for name in parts}
    made = pd.DataFrame({f"{name}_usd": value for name, value in parts.items()}, index=whole.index)
    made.insert(0, "cost_usd", whole["cost_usd"])
    return made.assign(efficiency=made["used_usd"] / made["cost_usd"])
