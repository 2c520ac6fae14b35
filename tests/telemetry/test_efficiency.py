"""Efficiency against a loop over rows, on data with gaps and several resources."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.telemetry import Telemetry, synthetic
from support.telemetry.efficiency import EFFICIENCY_COLUMNS, with_efficiency

PERCENT = st.one_of(st.floats(0, 100), st.just(float("nan")), st.floats(0, 6))


def telemetry(values):
    names = sorted({n for n, _, _ in values}) or ["a"]
    parts = []
    for name in names:
        rows = [(c, m) for n, c, m in values if n == name]
        index = pd.MultiIndex.from_product(
            [[name], pd.date_range("2026-01-01", periods=len(rows), freq="300s", tz="UTC")],
            names=["resource_id", "timestamp"],
        )
        parts.append(pd.DataFrame(rows, index=index, columns=["cpu_utilization", "memory_utilization"], dtype=float))
    return Telemetry(pd.concat(parts), 300.0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), PERCENT, PERCENT), min_size=1, max_size=80))
def test_flags_are_those_of_a_loop(values):
    made = with_efficiency(telemetry(values)).observations
    for _, frame in made.groupby(level="resource_id"):
        cpu, memory = frame["cpu_utilization"].to_numpy(), frame["memory_utilization"].to_numpy()
        for k in range(len(frame)):
            row = frame.iloc[k]
            if np.isnan(cpu[k]) or np.isnan(memory[k]):
                assert row[list(EFFICIENCY_COLUMNS)].isna().all()
                continue
            assert row["efficiency_score"] == pytest.approx((min(cpu[k] / 70, 1) + min(memory[k] / 80, 1)) / 2)
            assert row["is_idle"] == (cpu[k] < 5 and memory[k] < 10)
            recent = [np.nanmean(x[max(k - 19, 0) : k + 1]) for x in (cpu, memory)]
            if abs(recent[0] - 20) > 1e-6 and abs(recent[1] - 30) > 1e-6:
                assert row["is_overprovisioned"] == (recent[0] < 20 and recent[1] < 30)
            waste = (100 - max(1.2 * cpu[k], 30) + 100 - max(1.2 * memory[k], 40)) / 2
            assert row["waste_percentage"] == pytest.approx(max(waste, 0))


def test_the_generator_writes_what_the_function_says():
    made = synthetic("fleet", seed=3, days=3, n_resources=4)
    again = with_efficiency(made)
    pd.testing.assert_frame_equal(made.observations, again.observations, rtol=1e-12)


def test_without_memory_it_says_what_is_missing():
    with pytest.raises(SchemaError, match="no cpu_utilization"):
        with_efficiency(synthetic("web", seed=1, days=1))
