"""The presets of the generator: what each makes one resource from, and what it takes where the caller says nothing."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SourceError
from support.telemetry.generation import cloud, events
from support.telemetry.generation.machines import Place, machine
from support.telemetry.generation.traffic import Traffic, traffic
from support.telemetry.taxonomy import profile, regions, taxonomy

__all__ = ["FITTED", "PRESETS", "Draw", "Preset", "find_preset", "industries"]

SPREAD_SD = 0.15  # log units, of a machine's level among its kind: this book's assumption
MACHINE = ("cpu_utilization", "memory_utilization", "network_in_mbps", "network_out_mbps")
INDUSTRY_SD, APPLICATION_SD, RESOURCE_SD = 0.25, 0.20, 0.15  # log units of CPU demand: this book's assumption
BUSINESS_UNITS = ("Retail", "Investment", "Wealth", "Corporate")
CRITICALITY = {"High": 0.2, "Medium": 0.5, "Low": 0.3}
BANKING_REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-southeast-1")


@dataclass(frozen=True)
class Draw:
    """What a preset makes one resource from: its number and name, the times, its own random stream, the options."""

    number: int
    name: str
    times: pd.DatetimeIndex
    rng: np.random.Generator
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Time zone and country as asked for."""
        return Place(self.options.get("timezone", "UTC"), self.options.get("country", "US"))


Made = tuple[dict[str, np.ndarray], dict[str, object]]


@dataclass(frozen=True)
class Preset:
    """A kind of synthetic data: what it is, its metrics, and what is taken where the caller says nothing.

    first_day: UTC date; days; step_seconds; n_resources; highest_resources: None is no bound; flags: with the efficiency
    columns; options: those of OPTIONS that it understands, besides days, start, end, anomaly_rate and missing_frac.
    """

    about: str
    make: Callable[[Draw], Made]
    name: str  # of resource number n, as a format
    metrics: tuple[str, ...]
    first_day: str
    days: int
    step_seconds: float
    n_resources: int = 1
    highest_resources: int | None = None
    flags: bool = False
    options: tuple[str, ...] = ("n_resources",)


def _workload(draw: Draw) -> Made:
    of_type = profile(draw.options.get("workload", "web_app"))
    return machine(of_type, draw.times, place=draw.place, rng=draw.rng), {"workload": of_type.name}


def _fleet(draw: Draw) -> Made:
    shares = taxonomy("workload")["share"]
    name = draw.options.get("workload", str(draw.rng.choice(shares.index, p=shares / shares.sum())))
    return machine(profile(name), draw.times, place=draw.place, rng=draw.rng, spread_sd=SPREAD_SD), {"workload": name}


def _cloud(draw: Draw) -> Made:
    asked = {name: draw.options.get(name) for name in ("workload", "providers", "resource_types")}
    return cloud.resource(draw.times, rng=draw.rng, **asked)


@cache
def _types_of_servers(n_servers: int) -> tuple[str, ...]:
    """Type of each server: always the one that is furthest behind its share, so 120 servers are 42, 48, 18 and 12."""
    shares = taxonomy("server")["share"].to_numpy()
    counts, types = np.zeros(len(shares)), []
    for number in range(1, n_servers + 1):
        behind = int(np.argmax(shares * number - counts))
        counts[behind] += 1
        types.append(taxonomy("server").index[behind])
    return tuple(types)


def _banking(draw: Draw) -> Made:
    rng = draw.rng
    kind = draw.options.get("workload") or _types_of_servers(1 << (draw.number + 1).bit_length())[draw.number]
    row = {
        "server_type": kind,
        "business_unit": str(rng.choice(BUSINESS_UNITS)),
        "criticality": str(rng.choice(list(CRITICALITY), p=list(CRITICALITY.values()))),
        "region": str(rng.choice(BANKING_REGIONS)),
    }
    zone = str(regions()["timezone"][regions()["region"] == row["region"]].iloc[0])
    # one bank, one closing calendar: the books follow the head office's holidays, the hours of the day the region's
    place = Place(zone, draw.options.get("country", "US"), quarter_end=True)
    return machine(profile(kind, "server"), draw.times, place=place, rng=rng, spread_sd=SPREAD_SD), row


def _events(draw: Draw) -> Made:
    return events.event_queue(draw.times, rng=draw.rng), {"workload": "queue"}


@cache
def industries() -> pd.DataFrame:
    """Industries of the preset `industries`, index `industry`: cpu_log_mean and the weight of each application archetype.

    Every number is this book's assumption: no published table gives them.
    """
    return pd.read_csv(Path(__file__).with_name("industries.csv"), index_col="industry")


def _effect(seed: int, name: str, sd: float) -> float:
    return float(np.random.default_rng([seed, zlib.crc32(name.encode())]).normal(0.0, sd))


def _industries(draw: Draw) -> Made:
    table = industries()
    industry = str(table.index[draw.number % len(table)])
    weights = table.loc[industry].drop("cpu_log_mean")
    name = draw.options.get("workload") or str(draw.rng.choice(weights.index, p=weights / weights.sum()))
    row = {
        "industry": industry,
        "application": name,
        "industry_effect": table.loc[industry, "cpu_log_mean"] + _effect(draw.seed, industry, INDUSTRY_SD),
        "application_effect": _effect(draw.seed, f"{industry}/{name}", APPLICATION_SD),
        "resource_effect": float(draw.rng.normal(0.0, RESOURCE_SD)),
    }
    level = float(np.exp(row["industry_effect"] + row["application_effect"] + row["resource_effect"]))
    of_type = profile(name, "application")
    return machine(of_type, draw.times, place=draw.place, rng=draw.rng, cpu_factor=level), row


def _requests(model: Traffic) -> Callable[[Draw], Made]:
    return lambda draw: ({"requests": traffic(model, draw.times, rng=draw.rng)}, {"workload": "web_app"})


WORLDCUP98 = Traffic(55.0, 0.45, 0.15, 1.6, 0.12, 60.0, 1.0, 2.5, 45.0)
IOPS, DISK = (*MACHINE, "disk_iops"), (*MACHINE[:2], "disk_utilization", *MACHINE[2:])
PRESETS: dict[str, Preset] = {
    "web": Preset("traffic of one web service", _requests(Traffic()), "front-end", ("requests",), "2026-03-02", 42, 60.0, 1, 1, options=()),
    "worldcup98": Preset("twin of the trace worldcup98", _requests(WORLDCUP98), "front-end", ("requests",), "1998-04-30", 88, 60.0, 1, 1, options=()),
    "workload": Preset("machine of one type", _workload, "machine-{:05d}", IOPS, "2026-03-02", 28, 300.0, flags=True,
                       options=("n_resources", "workload", "timezone", "country")),
    "fleet": Preset("fleet of a mix of workload types", _fleet, "vm-{:05d}", IOPS, "2026-03-02", 28, 300.0, 12, flags=True,
                    options=("n_resources", "workload", "timezone", "country")),
    "cloud": Preset("estate across three providers", _cloud, "res-{:05d}", ("requests", *MACHINE, "disk_utilization", "disk_iops", "cost_usd"),
                    "2026-03-02", 14, 300.0, 100, flags=True, options=("n_resources", "workload", "providers", "resource_types")),
    "banking": Preset("fleet of a bank's servers", _banking, "server-{:05d}", DISK, "2022-01-01", 1461, 86_400.0, 120,
                      options=("n_resources", "workload", "country")),
    "events": Preset("queue of events", _events, "queue-{:05d}", ("requests", "processed", "errors", "latency_ms", "queue_length"),
                     "2025-03-01", 149, 120.0),
    "industries": Preset("machines of six industries, with known effects", _industries, "host-{:05d}", IOPS, "2026-03-02", 14, 300.0, 60,
                         flags=True, options=("n_resources", "workload", "timezone", "country")),
}  # fmt: skip

FITTED = "fitted:"


def find_preset(name: str) -> Preset:
    """The preset `name`, or `fitted:<trace>` from the committed model of that trace. Raises SourceError with the known names.

    Example:
        >>> find_preset("fitted:bitbrains").metrics
        ('cpu_utilization',)
    """
    if not name.startswith(FITTED):
        if name not in PRESETS:
            raise SourceError(f"synthetic:{name}: no such preset. Use {', '.join(PRESETS)} or {FITTED}<trace>.")
        return PRESETS[name]
    from support.telemetry.generation.fitted import new_machine, preset

    model = preset(name.removeprefix(FITTED))

    def make(draw: Draw) -> Made:
        order = np.random.default_rng([draw.seed, zlib.crc32(name.encode())]).permutation(len(model.machines))
        ancestor = int(order[draw.number % len(order)])  # all estimated machines come up once before one comes up again
        values = new_machine(model, ancestor, draw.times, rng=draw.rng)
        return dict(zip(model.metrics, values.T, strict=True)), {"workload": model.name}

    about = f"machines like the {len(model.machines)} of {model.name}"
    return Preset(about, make, "machine-{:05d}", model.metrics, "2026-03-02", 28, 300.0, 12)
