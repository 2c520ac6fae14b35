"""What resources wanted, in units of capacity (cores, GiB, Mbit/s) on one grid, beside what they have and could have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.schema import Telemetry

__all__ = ["ROUNDING", "SIZE_COLUMN", "UNBOUNDED", "Usage", "fitting", "kind", "ladder", "smallest_sizes", "usage_of"]

# Dimension -> the column of a catalogue that says how much of it a size has.
SIZE_COLUMN = {"cpu": "vcpu", "memory": "memory_gib", "network": "network_mbps"}
CEILING = 0.98  # of its capacity: a resource at or above it may have wanted more than was measured
ROUNDING = 1e-9  # of an amount: a size that equals what is required holds it
UNBOUNDED = 1e9  # a size without a limit in some dimension
CONTAINERS, BURSTABLE = ("fargate", "container instance", "cloud run"), ("t2.", "t3", "t4g", "B", "e2-")


@dataclass(frozen=True)
class Usage:
    """Demand of n_resource resources at n_time times.

    demand: dimension -> (n_resource, n_time), NaN where not measured; cpu in cores, memory in GiB, network in Mbit/s.
    capacity: dimension -> (n_resource,) of today's sizes, infinite where unknown. resources: their table, in that order.
    """

    timestamps: pd.DatetimeIndex
    step_hours: float
    demand: Mapping[str, np.ndarray]
    capacity: Mapping[str, np.ndarray]
    resources: pd.DataFrame

    @property
    def steps_per_day(self) -> int:
        """Intervals of a day."""
        return max(1, round(24 / self.step_hours))

    def days(self, first: float, last: float) -> Usage:
        """Only days `first` (inclusive) to `last` (exclusive), counted from the first timestamp."""
        inside = slice(round(first * self.steps_per_day), round(last * self.steps_per_day))
        cut = {k: v[:, inside] for k, v in self.demand.items()}
        return replace(self, timestamps=self.timestamps[inside], demand=cut)

    def only(self, which: np.ndarray) -> Usage:
        """Only the resources for which `which` (n_resource,) is True."""
        demand, capacity = ({k: v[which] for k, v in d.items()} for d in (self.demand, self.capacity))
        return replace(self, demand=demand, capacity=capacity, resources=self.resources[which])

    def measured_share(self) -> np.ndarray:
        """Share of the intervals with a value of CPU, (n_resource,)."""
        return np.isfinite(self.demand["cpu"]).mean(axis=1)

    def ceiling_share(self) -> np.ndarray:
        """Share of the measured intervals at 98 % of the CPU or more, where demand is censored, (n_resource,)."""
        cpu = self.demand["cpu"]
        high = (cpu >= CEILING * self.capacity["cpu"][:, None]).sum(axis=1)
        return np.asarray(high / np.maximum(np.isfinite(cpu).sum(axis=1), 1))


def usage_of(telemetry: Telemetry, *, vcpu: float | None = None, memory_gib: float | None = None) -> Usage:
    """Usage in units of capacity from utilisation in percent; resources without CPU are left out.

    Capacity is the columns `vcpu` (or `cpu_count`) and `memory_gib` of the resources, or the arguments where there are none.
    CPU is at most today's capacity: readings above 100 percent are rounding of the meter. Raises SchemaError.
    """
    frame, table = telemetry.observations, telemetry.resources
    if "cpu_utilization" not in frame:
        raise SchemaError(
            f"{telemetry.source}: no cpu_utilization; there are {telemetry.metrics}. Right-sizing needs it."
        )
    wide = frame["cpu_utilization"].unstack("resource_id").dropna(axis=1, how="all")
    grid = pd.date_range(wide.index[0], wide.index[-1], freq=pd.Timedelta(seconds=telemetry.step_seconds))
    if not wide.index.isin(grid).all():
        raise SchemaError(
            f"{telemetry.source}: resources are measured at different times. Move them to one grid first."
        )
    wide = wide.reindex(grid)  # where no resource was measured days must still be days
    ids = wide.columns
    known = table.reindex(ids) if len(table) else pd.DataFrame(index=ids)
    cores = known["vcpu"] if "vcpu" in known else known.get("cpu_count", pd.Series(np.nan, ids))
    cores = cores.astype(float).fillna(np.nan if vcpu is None else vcpu)
    if cores.isna().any() or (cores <= 0).any():
        at = cores.index[cores.isna() | (cores <= 0)][0]
        raise SchemaError(
            f"{telemetry.source}: how many cores {at} has is not known. Give a column vcpu, one number a machine, or vcpu=4."
        )
    limit = known.get("memory_gib", pd.Series(np.nan, ids)).astype(float)
    limit = limit.fillna(np.inf if memory_gib is None else memory_gib)
    capacity = {"cpu": cores.to_numpy(), "memory": limit.to_numpy()}
    demand = {"cpu": np.minimum(wide.to_numpy().T / 100, 1.0) * capacity["cpu"][:, None]}
    if "memory_utilization" in frame and np.isfinite(capacity["memory"]).any():
        used = frame["memory_utilization"].unstack("resource_id").reindex(columns=ids, index=wide.index)
        demand["memory"] = (
            used.to_numpy().T / 100 * np.where(np.isfinite(capacity["memory"]), capacity["memory"], np.nan)[:, None]
        )
    flows = [m for m in ("network_in_mbps", "network_out_mbps") if m in frame]
    if flows:
        busiest = frame[flows].max(axis=1).unstack("resource_id").reindex(columns=ids, index=wide.index)
        demand["network"], capacity["network"] = busiest.to_numpy().T, np.full(len(ids), np.inf)
    return Usage(
        pd.DatetimeIndex(wide.index), telemetry.step_seconds / 3600, demand, capacity, known.rename_axis("resource_id")
    )


def ladder(price_per_core_hour: float, *, smallest: float, largest: float, per_doubling: int = 2) -> pd.DataFrame:
    """Prices of CPU requests in equal ratios, paid by the core: what a container platform sells, for `CostModel`.

    Columns instance_type, vcpu (cores), memory_gib (unbounded: it is requested apart), price, unit, currency.

    Example:
        >>> ladder(0.04, smallest=1.0, largest=4.0, per_doubling=1)["vcpu"].tolist()
        [1.0, 2.0, 4.0]
    """
    n = int(np.ceil(per_doubling * np.log2(largest / smallest) - 1e-9)) + 1
    cores = smallest * 2.0 ** (np.arange(n) / per_doubling)
    names = [f"{1000 * c:.0f} mCPU" for c in cores]
    prices = {"instance_type": names, "vcpu": cores, "memory_gib": UNBOUNDED, "price": price_per_core_hour * cores}
    return pd.DataFrame(prices | {"unit": "hour", "currency": "USD"})


def kind(instance_type: str) -> str:
    """container, burstable or machine: a size is compared with sizes of its own kind only."""
    if instance_type.startswith(CONTAINERS):
        return "container"
    return "burstable" if instance_type.startswith(BURSTABLE) else "machine"


def fitting(catalogue: pd.DataFrame, required: Mapping[str, np.ndarray]) -> np.ndarray:
    """(n, n_size): True where a size holds every dimension of `required` (name -> (n,)) it is sold by; NaN asks for nothing."""
    n = len(next(iter(required.values())))
    fits = np.ones((n, len(catalogue)), bool)
    for dimension, amount in required.items():
        if SIZE_COLUMN[dimension] in catalogue:
            has = catalogue[SIZE_COLUMN[dimension]].to_numpy(float)
            fits &= has[None, :] >= np.nan_to_num(amount, nan=0.0)[:, None] * (1 - ROUNDING)
    return fits


def smallest_sizes(catalogue: pd.DataFrame, required: Mapping[str, np.ndarray]) -> np.ndarray:
    """Position of the cheapest size that holds `required` (name -> (n,)), -1 if none does; (n,). catalogue: by price."""
    fits = fitting(catalogue, required)
    return np.where(fits.any(axis=1), fits.argmax(axis=1), -1)
