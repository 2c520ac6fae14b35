"""Incidents: rate, kinds, lengths and labels are those that were asked for, and each can be seen in the data."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SourceError
from support.telemetry import load, synthetic
from support.telemetry.generation.incidents import INCIDENTS, schedule

KINDS = list(INCIDENTS)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    rate=st.floats(0.001, 0.5),
    step=st.sampled_from([60.0, 300.0, 3600.0, 86_400.0]),
    n_time=st.integers(1, 5000),
)
def test_incidents_are_in_order_apart_and_within(seed, rate, step, n_time):
    found = schedule(n_time, step, rate, KINDS, rng=np.random.default_rng(seed))
    for _, first, last in found:
        assert 0 <= first <= last < n_time
    assert all(before[2] < after[1] for before, after in pairwise(found))


@pytest.mark.parametrize(("rate", "step"), [(0.02, 300.0), (0.2, 300.0), (0.05, 86_400.0), (0.5, 3600.0)])
def test_the_share_of_time_in_incidents_is_the_rate(rate, step):
    found = schedule(2_000_000, step, rate, KINDS, rng=np.random.default_rng(1))
    assert sum(last + 1 - first for _, first, last in found) / 2_000_000 == pytest.approx(rate, rel=0.12)
    counts = pd.Series([k for k, _, _ in found]).value_counts(normalize=True)
    assert np.abs(counts - 1 / len(KINDS)).max() < 0.05


def test_the_first_interval_is_as_likely_as_any_other():
    starts = [schedule(50, 300.0, 0.3, KINDS, rng=np.random.default_rng(k)) for k in range(3000)]
    inside = np.mean([[any(a <= t <= b for _, a, b in s) for t in (0, 49)] for s in starts], axis=0)
    np.testing.assert_allclose(inside, 0.3, atol=0.03)


def test_lengths_are_those_of_the_kinds():
    found = pd.DataFrame(
        schedule(2_000_000, 300.0, 0.2, KINDS, rng=np.random.default_rng(3)), columns=["kind", "a", "b"]
    )
    minutes = (found["b"] + 1 - found["a"]) * 5
    for kind, of_kind in minutes.groupby(found["kind"]):
        assert of_kind.mean() == pytest.approx(INCIDENTS[kind].minutes, rel=0.1)


@pytest.mark.parametrize("rate", [-0.1, 0.6, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(SourceError, match="anomaly_rate="):
        load("synthetic:workload", seed=1, days=1, anomaly_rate=rate)


@pytest.fixture(scope="module")
def estates():
    options = {"seed": 11, "days": 21, "n_resources": 40}
    return synthetic("cloud", **options), synthetic("cloud", **options, anomaly_rate=0.05)


def test_labels_mark_exactly_the_changed_intervals(estates):
    calm, ill = estates
    flagged = ill.observations["quality_flag"] == 2
    inside = pd.Series(False, index=ill.observations.index)
    for label in ill.labels.itertuples():
        inside.loc[(label.resource_id, slice(label.start, label.end))] = True
    assert flagged.equals(inside.rename("quality_flag"))
    assert flagged.mean() == pytest.approx(0.05, rel=0.25)
    same = calm.metrics
    unequal = (calm.observations[same].fillna(-1) != ill.observations[same].fillna(-1)).any(axis=1)
    assert not (unequal & ~flagged).any()  # outside, the data are what they would have been without incidents
    assert unequal[flagged].mean() > 0.95


def test_every_kind_shows_in_the_metrics_that_its_label_names(estates):
    calm, ill = estates
    assert set(ill.labels["kind"]) == set(INCIDENTS)
    change = {kind: [] for kind in INCIDENTS}
    for label in ill.labels.itertuples():
        rows = (label.resource_id, slice(label.start, label.end))
        before, after = calm.observations.loc[rows, :], ill.observations.loc[rows, :]
        named = label.metrics.split(",")
        for metric in set(calm.metrics) - set(named):
            assert before[metric].equals(after[metric])
        change[label.kind].append((before[named], after[named]))
    for _, after in change["cpu_spike"] + change["scaling_failure"]:
        assert after["cpu_utilization"].min() >= 95
    for _, after in change["idle_waste"]:
        assert after["cpu_utilization"].max() < 5 and after["memory_utilization"].max() < 10  # idle by the flag's rule
    leaked = [(a - b)["memory_utilization"] for b, a in change["memory_leak"]]
    assert all(x.iloc[-1] >= x.iloc[0] - 1e-9 for x in leaked) and max(x.max() for x in leaked) > 30
    ratios = {k: np.concatenate([(a / b)["cost_usd"] for b, a in change[k]]) for k in ("cost_spike", "cost_drop")}
    assert ratios["cost_spike"].min() > 1.9 and ratios["cost_spike"].max() < 5.2
    np.testing.assert_allclose(ratios["cost_drop"], 0.1, rtol=0.1)
    shifts = np.concatenate([(a / b)["cpu_utilization"] for b, a in change["level_shift"]])
    assert np.median(shifts) == pytest.approx(1.5, abs=0.01)


def test_incidents_keep_percentages_in_range():
    ill = synthetic("fleet", seed=2, days=14, n_resources=20, anomaly_rate=0.5).observations
    for metric in ("cpu_utilization", "memory_utilization"):
        assert ill[metric].between(0, 100).all() and (ill[metric] >= 99.99).mean() < 0.01
