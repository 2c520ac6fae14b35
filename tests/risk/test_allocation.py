"""Allocation against a loop and OpenCost's definitions; conservation of cost as a law."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.risk.allocation import IDLE, allocate, estate_waste, split_price, waste
from support.telemetry import load

AMOUNT = st.one_of(st.just(0.0), st.floats(1e-3, 100))
WORKLOADS = st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT), min_size=1, max_size=6)
COLUMNS = ["cpu_request", "cpu_usage", "ram_request", "ram_usage"]


@settings(deadline=None, max_examples=100)
@given(WORKLOADS, st.floats(0, 50), st.floats(0, 50), st.floats(1, 300), st.floats(1, 300))
def test_costs_are_conserved_and_are_those_of_a_loop(rows, cpu_cost, ram_cost, cpu_hours, ram_hours):
    workloads = pd.DataFrame(rows, columns=COLUMNS, index=[f"w{k}" for k in range(len(rows))])
    made = allocate(workloads, cpu_cost=cpu_cost, ram_cost=ram_cost, cpu_hours=cpu_hours, ram_hours=ram_hours)
    total = math.fsum(made["total_cost"])
    assert total == pytest.approx(cpu_cost + ram_cost, rel=1e-12, abs=1e-12)
    assert (made[["cpu_cost", "ram_cost"]] >= 0).all(axis=None)
    wanted_cpu, wanted_ram = (sum(max(r[i], r[i + 1]) for r in rows) for i in (0, 2))
    for k, (cpu_request, cpu_usage, ram_request, ram_usage) in enumerate(rows):
        row = made.iloc[k]
        cpu = cpu_cost * max(cpu_request, cpu_usage) / max(cpu_hours, wanted_cpu)
        ram = ram_cost * max(ram_request, ram_usage) / max(ram_hours, wanted_ram)
        assert row["total_cost"] == pytest.approx(cpu + ram, abs=1e-12)
        if min(cpu_request, ram_request) > 0 and cpu + ram > 0:
            by_hand = (cpu * cpu_usage / cpu_request + ram * ram_usage / ram_request) / (cpu + ram)
            assert row["efficiency"] == pytest.approx(by_hand)


def test_idle_is_what_nobody_asked_for():
    workloads = pd.DataFrame([[1.0, 0.5, 2.0, 2.0]], columns=COLUMNS, index=["web"])
    made = allocate(workloads, cpu_cost=4.0, ram_cost=8.0, cpu_hours=4.0, ram_hours=8.0)
    assert made.loc[IDLE, ["cpu_cost", "ram_cost"]].tolist() == [3.0, 6.0]
    assert made.loc["web", "efficiency"] == pytest.approx((1 * 0.5 + 2 * 1.0) / 3)
    without = allocate(workloads.assign(cpu_request=0.0), cpu_cost=4.0, ram_cost=8.0, cpu_hours=4.0, ram_hours=8.0)
    assert without.loc["web", "cpu_efficiency"] == 1.0
    nothing = allocate(workloads * 0, cpu_cost=4.0, ram_cost=8.0, cpu_hours=4.0, ram_hours=8.0)
    assert nothing.loc[IDLE, "total_cost"] == 12.0 and np.isnan(nothing.loc["web", "efficiency"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.drop(columns="ram_usage"), "no column 'ram_usage'"),
        (lambda w: w.assign(cpu_usage=-1.0), "at least 0"),
        (lambda w: w.assign(cpu_usage=np.nan), "finite"),
        (lambda w: w.rename(index={"web": IDLE}), "names must be unique"),
    ],
)
def test_bad_workloads(change, told):
    workloads = pd.DataFrame([[1.0, 0.5, 2.0, 2.0]], columns=COLUMNS, index=["web"])
    with pytest.raises(SchemaError, match=told):
        allocate(change(workloads), cpu_cost=1.0, ram_cost=1.0, cpu_hours=1.0, ram_hours=1.0)
    with pytest.raises(SchemaError, match="above 0"):
        allocate(workloads, cpu_cost=1.0, ram_cost=1.0, cpu_hours=0.0, ram_hours=1.0)


@given(st.floats(0, 10), st.floats(0.1, 100), st.floats(0.1, 500))
def test_a_split_price_sums_and_follows_opencost(price, vcpu, memory):
    cpu, ram = split_price(price, vcpu, memory)
    assert cpu + ram == pytest.approx(price) and min(cpu, ram) >= 0
    assert cpu * memory * 0.004237 == pytest.approx(ram * vcpu * 0.031611, abs=1e-9)


@given(st.floats(0, 100), st.floats(0, 120), st.floats(0, 100))
def test_waste_is_what_is_left_after_the_headroom(provisioned, used, justified):
    parts = {name: float(value) for name, value in waste(provisioned, used, justified).items()}
    assert min(parts.values()) >= 0
    assert parts["used"] + parts["headroom"] + parts["waste"] == pytest.approx(provisioned, abs=1e-9)
    assert parts["waste"] == pytest.approx(max(provisioned - (used + justified), 0), abs=1e-9)
    assert parts["shortage"] == pytest.approx(max(used + justified - provisioned, 0), abs=1e-9)


def test_estate_waste_is_that_of_a_loop_and_falls_as_more_headroom_is_justified():
    estate = load("synthetic:cloud", seed=5, days=3, n_resources=15)
    made = estate_waste(estate, level=0.95)
    assert len(made) > 3
    for name, row in made.iterrows():
        frame, size = estate.observations.loc[name], estate.resources.loc[name]
        cpu_cost, ram_cost = split_price(frame["cost_usd"].sum(), size["vcpu"], size["memory_gib"])
        wasted = 0.0
        for cost, metric in ((cpu_cost, "cpu_utilization"), (ram_cost, "memory_utilization")):
            wasted += cost * max(1 - np.quantile(frame[metric].dropna(), 0.95) / 100, 0)
        assert row["waste_usd"] == pytest.approx(wasted)
        assert row["cost_usd"] == pytest.approx(row["used_usd"] + row["headroom_usd"] + row["waste_usd"])
    stricter = estate_waste(estate, level=0.999)
    assert (stricter["waste_usd"] <= made["waste_usd"] + 1e-12).all()
    np.testing.assert_allclose(stricter["used_usd"], made["used_usd"])


def test_estate_waste_says_what_is_missing():
    with pytest.raises(SchemaError, match="no cost_usd"):
        estate_waste(load("synthetic", seed=1, days=2))
    with pytest.raises(SchemaError, match="level"):
        estate_waste(load("synthetic", seed=1, days=2), level=1.0)
