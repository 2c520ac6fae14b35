"""Capping of outliers against a loop, and without a look into the future."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.telemetry import Telemetry, load
from support.telemetry.judging.outliers import cap_outliers


def telemetry(values, ids=("a",)):
    index = pd.MultiIndex.from_product(
        [ids, pd.date_range("2026-01-01", periods=len(values), freq="1h", tz="UTC")], names=["resource_id", "timestamp"]
    )
    return Telemetry(pd.DataFrame({"requests": np.tile(values, len(ids))}, index=index), 3600.0)


VALUES = st.lists(st.one_of(st.floats(0, 100), st.just(float("nan")), st.floats(500, 1000)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_capping_is_that_of_a_loop_over_the_past(values):
    made = cap_outliers(telemetry(values, ("a", "b")), "requests", window_days=1.0, threshold=2.0)
    for name in ("a", "b"):
        found = made.observations.loc[name, "requests"].to_numpy()
        for k, value in enumerate(values):
            past = np.array(values[max(k - 24, 0) : k])
            past = past[~np.isnan(past)]
            wanted = value
            if len(past) >= 10 and not np.isnan(value):
                mean, reach = past.mean(), 2 * past.std(ddof=1)
                wanted = min(max(value, mean - reach), mean + reach)
            assert found[k] == pytest.approx(wanted, abs=1e-5, nan_ok=True)


def test_capped_rows_are_flagged_and_counted():
    values = np.random.default_rng(1).normal(100, 5, 200)
    values[150] = 1000.0
    made = cap_outliers(telemetry(values), "requests")
    flags = made.observations["quality_flag"].to_numpy()
    assert flags[150] == 1 and made.repairs[-1].count == flags.sum() <= 3
    assert made.observations["requests"].iloc[150] < 130


def test_known_anomalies_keep_their_flag():
    ill = load("synthetic:fleet", seed=1, days=7, n_resources=5, anomaly_rate=0.05)
    made = cap_outliers(ill, "cpu_utilization", window_days=2.0, threshold=3.0)
    assert (made.observations["quality_flag"][ill.observations["quality_flag"] == 2] == 2).all()


@pytest.mark.parametrize(
    "options", [{"metric": "x"}, {"metric": "requests", "window_days": 0}, {"metric": "requests", "threshold": -1}]
)
def test_refusals(options):
    with pytest.raises(SchemaError, match="no metric 'x'|must be positive"):
        cap_outliers(telemetry([1.0] * 20), **options)
