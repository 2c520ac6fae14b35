"""A multi-cloud estate: resources across AWS, Azure and GCP, their prices and tags, and what a customer or team costs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from support.errors import SchemaError, SourceError
from support.telemetry.generation.machines import Place, machine
from support.telemetry.generation.processes import ar1
from support.telemetry.schema import Telemetry
from support.telemetry.taxonomy import profile, regions, taxonomy

__all__ = ["TAGS", "instances", "resource", "unit_economics"]

HOURS_PER_MONTH = 730.0
EGRESS_USD_PER_GB = 0.09  # this book's assumption, near the list price of the first terabytes
GB_PER_MBIT = 1 / 8000
REQUESTS_PER_CPU_SECOND = 50.0  # this book's assumption: 20 ms of one core a request
RESOURCE_TYPES = {"compute": 0.60, "database": 0.15, "storage": 0.15, "network": 0.10}  # shares: this book's assumption
DATABASE_WORKLOADS = ("database_oltp", "database_olap", "cache", "queue")
SERVING = (
    "web_app",
    "microservices",
    "ml_inference",
    "database_oltp",
    "streaming",
    "serverless",
    "container",
    "cache",
    "queue",
)
ACCELERATED = ("ml_training", "ml_inference")
SPREAD_SD = 0.15  # log units, of a resource's level among its kind: this book's assumption
LARGEST_GAP_FRAC = 0.30  # tags missing: hello-cloud, 30 %, customer 50 %
TAGS: dict[str, tuple[float, tuple[str, ...]]] = {  # share missing, values; a customer's share falls with its number
    "team": (LARGEST_GAP_FRAC, ("checkout", "search", "platform", "data", "ml", "mobile")),
    "environment": (LARGEST_GAP_FRAC, ("production", "staging", "development")),
    "product": (LARGEST_GAP_FRAC, ("shop", "ads", "insights", "payments", "catalogue")),
    "customer": (0.50, tuple(f"customer-{n:02d}" for n in range(1, 21))),
    "cost_centre": (LARGEST_GAP_FRAC, ("cc-100", "cc-200", "cc-300", "cc-400")),
}
SKEWED = ("customer", "environment")  # these follow Zipf's law, the others are uniform


@cache
def instances() -> pd.DataFrame:
    """Instance types: resource type, names of the nearest size at three providers, vCPU, memory in GiB, price in USD.

    The price is the first provider's; `price_factor` of `regions()` gives the others'.
    """
    return pd.read_csv(Path(__file__).with_name("instances.csv"))


@cache
def _shares(resource_type: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Workload types that run on a resource type, and their shares; a type without a share in the default mix gets 2 %."""
    if resource_type == "network":
        return ("cdn",), np.ones(1)
    table = taxonomy("workload")["share"].drop("cdn").clip(lower=0.02)
    is_database = table.index.isin(DATABASE_WORKLOADS)
    table = table[is_database if resource_type == "database" else ~is_database]
    return tuple(table.index), (table / table.sum()).to_numpy()


def _among(option: str, asked: str | Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The names asked for (a sequence, or one text with commas), all of `known` if none; SourceError for another name."""
    names = [n.strip() for n in (asked.split(",") if isinstance(asked, str) else asked or known)]
    if wrong := [n for n in names if n not in known]:
        raise SourceError(f"synthetic:cloud: {option} {wrong[0]!r} is not known. Use some of {', '.join(known)}.")
    return names


def resource(
    times: pd.DatetimeIndex,
    *,
    rng: np.random.Generator,
    workload: str | None = None,
    providers: str | Sequence[str] | None = None,
    resource_types: str | Sequence[str] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """One resource of the estate: metrics at `times` (name -> shape (n_time,)) and its row of the table of resources.

    A machine or database has CPU, memory, network, operations/s and, if it serves, requests; a volume the disk's metrics;
    a load balancer the network's. cost_usd: list price, whether used or not; egress is charged by volume.
    providers, resource_types: only these, for example "AWS,GCP" or ["compute"]. Raises SourceError for an unknown name.
    """
    step = (times[1] - times[0]).total_seconds()
    kinds = _among("resource type", resource_types, list(RESOURCE_TYPES))
    weight = np.array([RESOURCE_TYPES[k] for k in kinds])
    kind = str(rng.choice(kinds, p=weight / weight.sum()))
    places = regions()[regions()["provider"].isin(_among("provider", providers, list(regions()["provider"].unique())))]
    names, shares = _shares(kind)
    drawn = str(rng.choice(names, p=shares))
    name = workload or drawn
    table = instances()
    offered = table[table["resource_type"] == kind]
    if kind == "compute":  # accelerators where they are of use
        offered = offered[(offered["gpus"] > 0) == (name in ACCELERATED)]
    size = offered.iloc[int(rng.integers(len(offered)))]
    region = places.iloc[int(rng.integers(len(places)))]
    row: dict[str, object] = {
        "provider": region["provider"],
        "region": region["region"],
        "resource_type": kind,
        "workload": name,
        "instance_type": size[region["provider"].lower()],
        "vcpu": float(size["vcpu"]),
        "memory_gib": float(size["memory_gib"]),
        "size_gib": float(rng.choice([100, 250, 500, 1000, 2000])) if kind == "storage" else np.nan,
        "price_usd_per_hour": float(size["price_usd"] * region["price_factor"]),
    }
    if kind == "storage":
        row["price_usd_per_hour"] = row["price_usd_per_hour"] * row["size_gib"] / HOURS_PER_MONTH  # type: ignore[operator]
    row |= {tag: _tag(tag, rng) for tag in TAGS}
    of_type = profile(name, "workload")
    place = Place(region["timezone"], region["country"])
    metrics = machine(of_type, times, place=place, rng=rng, spread_sd=SPREAD_SD)
    hours = np.full(len(times), step / 3600)
    cost = hours * row["price_usd_per_hour"]
    cpu = metrics["cpu_utilization"]
    if kind == "storage":
        filled = 0.5 + 0.3 * rng.random() + ar1(len(times), 30 * 86_400 / step, 0.05, rng=rng)
        metrics = {"disk_iops": metrics["disk_iops"], "disk_utilization": 100 * np.clip(filled, 0.05, 0.99)}
    elif kind == "network":
        cost = cost + metrics["network_out_mbps"] * step * GB_PER_MBIT * EGRESS_USD_PER_GB * region["price_factor"]
        metrics = {m: metrics[m] for m in ("network_in_mbps", "network_out_mbps")}
    if kind in ("compute", "database") and name in SERVING:
        busy_seconds = cpu / 100 * row["vcpu"] * step  # type: ignore[operator]
        metrics["requests"] = rng.poisson(REQUESTS_PER_CPU_SECOND * busy_seconds).astype(float)
    return metrics | {"cost_usd": cost}, row


def _tag(tag: str, rng: np.random.Generator) -> object:
    """A value, or missing; always three draws or two, so that tags never shift what follows."""
    missing, values = TAGS[tag]
    weight = 1 / np.arange(1, len(values) + 1) if tag in SKEWED else np.ones(len(values))
    value = str(rng.choice(values, p=weight / weight.sum()))
    return None if rng.random() < missing else value


def unit_economics(telemetry: Telemetry, by: str = "customer") -> pd.DataFrame:
    """Cost of each value of a column of the resources (`customer`, `team`, `product`, ...), dearest first.

    Columns: resources; cost_usd; cost_share (of the total, fraction); requests; usd_per_million_requests (of those
    resources that serve; NaN without requests); wasted_usd (cost times waste_percentage, where that is known). What has
    no value is in the row `(untagged)`, so the costs add up to the total. Raises SchemaError for an unknown column or
    telemetry without cost.

    Example:
        >>> from support.telemetry import load
        >>> estate = load("synthetic:cloud", seed=1, days=1, n_resources=5)
        >>> round(float(unit_economics(estate, "team")["cost_share"].sum()), 6)
        1.0
    """
    if by not in telemetry.resources.columns:
        raise SchemaError(
            f"{telemetry.source}: resources have no {by!r}; there are {list(telemetry.resources.columns)}."
        )
    if "cost_usd" not in telemetry.observations:
        raise SchemaError(f"{telemetry.source}: no cost_usd; there are {telemetry.metrics}.")
    frame = telemetry.observations
    per_row = pd.DataFrame({"cost_usd": frame["cost_usd"]})
    per_row["wasted_usd"] = (
        frame["cost_usd"] * frame["waste_percentage"] / 100 if "waste_percentage" in frame else np.nan
    )
    per_row["requests"] = frame.get("requests", np.nan)
    each = per_row.groupby(level="resource_id").sum(min_count=1)
    each["serving_usd"] = each["cost_usd"].where(each["requests"].notna())
    group = telemetry.resources[by].reindex(each.index).astype(object).where(lambda v: v.notna(), "(untagged)")
    summed = each.groupby(group.to_numpy()).sum(min_count=1)
    return pd.DataFrame(
        {
            "resources": group.value_counts().reindex(summed.index),
            "cost_usd": summed["cost_usd"],
            "cost_share": summed["cost_usd"] / summed["cost_usd"].sum(),
            "requests": summed["requests"],
            "usd_per_million_requests": summed["serving_usd"] / summed["requests"].where(summed["requests"] > 0) * 1e6,
            "wasted_usd": summed["wasted_usd"],
        }
    ).rename_axis(by).sort_values("cost_usd", ascending=False)  # fmt: skip
