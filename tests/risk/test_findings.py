"""Findings: the first that applies, by hand."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError
from support.risk.findings import FINDINGS, find
from support.risk.usage import Usage, fitting, kind, ladder, smallest_sizes, usage_of
from support.telemetry import Telemetry, load

CATALOGUE = pd.DataFrame(
    {"vcpu": [1.0, 2.0, 4.0, 8.0], "memory_gib": [2.0, 8.0, 16.0, 32.0], "price_per_hour": [1.0, 2.0, 4.0, 8.0]},
    index=["one", "two", "four", "eight"],
)


def fleet(cpu_share, network=0.0, hours=72, cores=4.0):
    n = len(cpu_share)
    cpu = np.repeat(np.asarray(cpu_share, float)[:, None] * cores, hours, axis=1)
    times = pd.date_range("2026-01-05", periods=hours, freq="1h", tz="UTC")
    capacity = {"cpu": np.full(n, cores), "memory": np.full(n, 16.0), "network": np.full(n, np.inf)}
    demand = {"cpu": cpu, "network": np.full((n, hours), network)}
    return Usage(times, 1.0, demand, capacity, pd.DataFrame(index=[f"vm-{k}" for k in range(n)]))


def findings(usage, required, proposed):
    now = np.full(len(usage.resources), 2)
    return find(usage, required, CATALOGUE, size_now=now, proposed=np.asarray(proposed))["finding"].tolist()


def test_each_finding_by_hand():
    usage = fleet([0.5, 0.2, 0.9])
    need = {"cpu": np.array([3.0, 0.9, 5.0]), "memory": np.array([10.0, 10.0, 10.0])}
    assert findings(usage, need, [2, 1, 3]) == ["optimised", "over_provisioned", "under_provisioned"]


def test_any_failing_dimension_is_enough():
    usage = fleet([0.2])
    told = find(
        usage,
        {"cpu": np.array([0.9]), "memory": np.array([20.0])},
        CATALOGUE,
        size_now=np.array([2]),
        proposed=np.array([3]),
    )
    assert told["finding"].tolist() == ["under_provisioned"] and told["binding_dimension"].tolist() == ["memory"]


def test_idle_needs_no_network_and_zombie_never_rises():
    quiet, busy = fleet([0.01]), fleet([0.01], network=5.0)
    need = {"cpu": np.array([0.1])}
    assert findings(quiet, need, [0]) == ["zombie"] and findings(busy, need, [0]) == ["over_provisioned"]
    quiet = fleet([0.01], hours=200)
    quiet.demand["cpu"][0, 7] = 2.0  # once in 200 hours: P99 stays below 5 %
    assert findings(quiet, need, [0]) == ["idle"]


def test_too_little_data_comes_first():
    usage = fleet([0.9])
    usage.demand["cpu"][0, 29:] = np.nan
    assert findings(usage, {"cpu": np.array([5.0])}, [3]) == ["insufficient_data"]
    assert FINDINGS[0] == "insufficient_data"


def test_smallest_sizes_equal_brute_force():
    rng = np.random.default_rng(1)
    need = {"cpu": rng.uniform(0, 9, 200), "memory": rng.uniform(0, 35, 200)}
    need["memory"][::7] = np.nan
    got = smallest_sizes(CATALOGUE, need)
    for k in range(200):
        memory = 0 if np.isnan(need["memory"][k]) else need["memory"][k]
        fits = [
            p for p, row in enumerate(CATALOGUE.itertuples()) if row.vcpu >= need["cpu"][k] and row.memory_gib >= memory
        ]
        assert got[k] == (min(fits, key=lambda p: CATALOGUE["price_per_hour"].iloc[p]) if fits else -1)


def test_network_counts_where_sizes_are_sold_by_it():
    need = {"network": np.array([60.0])}
    assert fitting(CATALOGUE, need).all()
    assert fitting(CATALOGUE.assign(network_mbps=[10.0, 50.0, 100.0, 100.0]), need)[0].tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_usage_in_units_of_capacity():
    estate = load("synthetic:cloud", seed=1, days=2, n_resources=6, step_seconds=3600.0)
    usage = usage_of(estate)
    name = usage.resources.index[0]
    percent = estate.series("cpu_utilization", name).to_numpy()
    assert usage.demand["cpu"][0] == pytest.approx(percent / 100 * estate.resources.loc[name, "vcpu"])
    assert (usage.demand["memory"] <= usage.capacity["memory"][:, None]).all()
    half = usage.days(0, 1)
    assert half.demand["cpu"].shape[1] == 24 and half.timestamps[-1] == usage.timestamps[23]


def test_usage_without_sizes_or_cpu_says_what_to_give():
    machines = load("synthetic:fleet", seed=1, days=1, n_resources=2, step_seconds=3600.0)
    with pytest.raises(SchemaError, match="vcpu="):
        usage_of(machines)
    assert usage_of(machines, vcpu=4.0).capacity["cpu"].tolist() == [4.0, 4.0]
    with pytest.raises(SchemaError, match="cpu_utilization"):
        usage_of(load("synthetic", seed=1, days=1))


def test_ladder_has_equal_ratios_and_a_price_by_the_core():
    table = ladder(0.05, smallest=0.25, largest=8.0, per_doubling=2)
    assert np.allclose(np.diff(np.log2(table["vcpu"])), 0.5) and table["vcpu"].iloc[-1] == pytest.approx(8.0)
    assert np.allclose(table["price"] / table["vcpu"], 0.05)


def test_kinds():
    assert [kind(name) for name in ("fargate 1 vCPU", "t3.micro", "B2ms", "m5.large")] == [
        "container",
        "burstable",
        "burstable",
        "machine",
    ]


def test_usage_of_machines_that_lived_at_different_times_is_one_grid_of_whole_days():
    """Ten hours, a hole of 29, ten hours: rows lie where their hour is, not one after the other."""
    spans = {"a": "2026-01-01 00:00", "b": "2026-01-02 15:00"}
    parts = [
        pd.DataFrame(
            {"cpu_utilization": 50.0},
            index=pd.MultiIndex.from_product([[name], pd.date_range(first, periods=10, freq="1h", tz="UTC")], names=["resource_id", "timestamp"]),
        )
        for name, first in spans.items()
    ]  # fmt: skip
    usage = usage_of(Telemetry(pd.concat(parts), 3600.0), vcpu=2)
    assert usage.timestamps.tolist() == pd.date_range("2026-01-01", periods=49, freq="1h", tz="UTC").tolist()
    assert np.isfinite(usage.demand["cpu"]).tolist() == [[k < 10 for k in range(49)], [k >= 39 for k in range(49)]]
    shifted = parts[1].rename(lambda t: t + pd.Timedelta(minutes=30), level="timestamp")
    with pytest.raises(SchemaError, match="different times"):
        usage_of(Telemetry(pd.concat([parts[0], shifted]), 3600.0), vcpu=2)
