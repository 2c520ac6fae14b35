"""The field's rules against published examples and naive loops."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import BookError
from support.risk.rules import RULES, decayed_percentile, kubecost_request, rules_table, vpa_bounds
from support.risk.usage import Usage

BY_NAME = {rule.name: rule for rule in RULES}


def usage_of_array(cpu, memory=None, *, cores=4.0, step_hours=1.0):
    times = pd.date_range("2026-01-05", periods=cpu.shape[1], freq=pd.Timedelta(hours=step_hours), tz="UTC")
    demand = {"cpu": cpu} | ({} if memory is None else {"memory": memory})
    capacity = {"cpu": np.full(len(cpu), cores), "memory": np.full(len(cpu), 16.0)}
    return Usage(times, step_hours, demand, capacity, pd.DataFrame(index=[f"vm-{k}" for k in range(len(cpu))]))


def reference(name):
    path = Path(
        os.environ.get("RISK_REFERENCE") or Path(os.environ.get("BOOK_DATA", ".")) / "reference-values/risk.json"
    )
    if not path.exists():
        pytest.skip("no reference values here")
    return next(v for v in json.loads(path.read_text())["values"] if v["name"] == name)


def test_kubecost_examples_are_exact():
    case = reference("kubecost-target-utilisation")
    for unit, target in (("mcpu", 0), ("mib", 1)):
        peaks = np.array(case["inputs"][f"replica_peaks_{unit}"], float)[:, None]
        got = kubecost_request(peaks, target_utilization=case["inputs"]["target_utilisation"][target])
        assert got == pytest.approx(case["expected"][unit], abs=1e-9)
    case = reference("kubecost-headroom")
    got = kubecost_request(
        np.array([[case["inputs"]["base_mcpu"]]]), target_utilization=case["inputs"]["target_utilisation"]
    )
    assert got == pytest.approx(case["expected"]["mcpu"], abs=1e-9)


def test_kubecost_pools_replicas_and_keeps_its_floor():
    assert kubecost_request(np.array([[1.0, 2.0], [7.0, 3.0]])) == pytest.approx(10.0)
    assert kubecost_request(np.array([[1.0]]), floor=10.0) == 10.0
    with pytest.raises(BookError, match="target_utilization"):
        kubecost_request(np.array([[1.0]]), target_utilization=0.0)


def naive_decayed(values, level, step_hours, half_life, first):
    """The VPA's histogram one sample after the other."""
    held, edges = {}, [0.0]
    while edges[-1] < 1e3:
        edges.append(edges[-1] + first * 1.05 ** (len(edges) - 1))
    for age, value in enumerate(values[::-1]):
        if value == value:
            bucket = next(k for k in range(len(edges) - 1) if value < edges[k + 1])
            held[bucket] = held.get(bucket, 0.0) + 0.5 ** (age * step_hours / half_life)
    total, so_far = sum(held.values()), 0.0
    for bucket in sorted(held):
        so_far += held[bucket]
        if so_far >= level * total - 1e-12:
            return edges[bucket + 1]
    return None


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_decayed_percentile_equals_a_loop(level):
    values = np.random.default_rng(3).lognormal(-1, 1, (4, 150))
    values[1, ::3] = np.nan
    got = decayed_percentile(values, level, step_hours=0.5, half_life_hours=24, first_bucket=0.01)
    assert got == pytest.approx([naive_decayed(list(v), level, 0.5, 24, 0.01) for v in values], rel=1e-9)


def test_vpa_forgets_and_its_bounds_enclose_the_target():
    cpu = np.full((1, 24 * 8), 2.0)
    cpu[:, -48:] = 0.1  # two half-lives of low load
    target = BY_NAME["VPA"].required(usage_of_array(cpu))["cpu"]
    low, high = vpa_bounds(usage_of_array(cpu))
    assert low[0] < 0.2 and low[0] <= target[0] <= high[0] and high[0] == pytest.approx(2.0 * 1.15, rel=0.06)


def test_rules_by_hand():
    cpu, memory = np.full((1, 24 * 30), 0.2), np.full((1, 24 * 30), 2.0)
    cpu[0, 5], memory[0, 5] = 3.0, 8.0  # once, a month ago
    required = {name: rule.required(usage_of_array(cpu, memory)) for name, rule in BY_NAME.items()}
    assert required["P95/0.7"]["cpu"][0] == pytest.approx(0.2 / 0.7)
    assert required["max/0.7"]["cpu"][0] == pytest.approx(3.0 / 0.7)
    assert required["Compute Optimizer"]["cpu"][0] == pytest.approx(0.24)  # 14 days: the peak is forgotten
    assert required["Compute Optimizer"]["memory"][0] == pytest.approx(2.4)
    assert required["KRR"]["memory"][0] == pytest.approx(2.3)
    assert required["OCI"]["cpu"][0] == pytest.approx(1.0)  # 5 % of four cores, to be 20 %
    assert required["Kubecost"]["cpu"][0] == pytest.approx(0.2 / 0.7)


def test_floors_hold_and_no_samples_ask_for_the_floor_or_nothing():
    tiny = usage_of_array(np.full((1, 48), 1e-4), np.full((1, 48), 1e-4))
    assert BY_NAME["VPA"].required(tiny)["cpu"][0] == pytest.approx(0.025)
    assert BY_NAME["KRR"].required(tiny)["memory"][0] == pytest.approx(100 / 1024)
    assert np.isnan(BY_NAME["P95/0.7"].required(usage_of_array(np.full((1, 48), np.nan)))["cpu"][0])


def test_oci_leaves_a_busy_machine_alone():
    assert BY_NAME["OCI"].required(usage_of_array(np.full((1, 48), 1.0)))["cpu"][0] == pytest.approx(4.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 4.0))
def test_rules_are_monotone_in_demand(seed, factor):
    cpu = np.random.default_rng(seed).gamma(0.5, 0.3, (2, 72))
    for rule in RULES:
        if rule.name != "OCI":  # it gives a busy machine what it has
            less, more = (
                rule.required(usage_of_array(np.minimum(cpu * f, 100.0)))["cpu"] for f in (1.0, max(factor, 1.0))
            )
            assert (more >= less - 1e-12).all(), rule.name


def test_table_names_every_rule():
    assert list(rules_table().index) == [rule.name for rule in RULES]
