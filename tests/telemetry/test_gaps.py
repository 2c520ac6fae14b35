"""What stands in a gap may not depend on what comes after it."""

import numpy as np
import pandas as pd
import pytest

from support.telemetry import Telemetry, load
from support.telemetry.judging.gaps import known_only

N, GAPS = 400, ((50, 55), (120, 180))  # rows that are left out; the second gap is of five hours


def file(folder, later=0.0):
    """Five-minute counts with gaps; from the end of the long gap on they are raised by `later`."""
    values = 100 + 10 * np.sin(np.arange(N) / 7) + later * (np.arange(N) >= 180)
    times = pd.date_range("2026-03-02", periods=N, freq="5min", tz="UTC")
    keep = np.ones(N, dtype=bool)
    for start, end in GAPS:
        keep[start:end] = False
    pd.DataFrame({"timestamp": times, "requests": values})[keep].to_csv(folder / "gaps.csv", index=False)
    return load(str(folder / "gaps.csv")), values


def test_a_gap_holds_the_last_value_before_it_and_is_counted(tmp_path):
    telemetry, values = file(tmp_path)
    made, wanted = known_only(telemetry), values.copy()
    for start, end in GAPS:
        wanted[start:end] = values[start - 1]
    np.testing.assert_allclose(made.demand().to_numpy(), wanted)
    assert made.repairs[-1].count == 65 and made.repairs[:-1] == telemetry.repairs


def test_what_comes_after_a_gap_does_not_reach_into_it(tmp_path):
    (plain, _), before = file(tmp_path), slice(0, 180)
    raised, _ = file(tmp_path, later=500.0)
    assert plain.demand().iloc[before].to_numpy() != pytest.approx(raised.demand().iloc[before].to_numpy())
    made = [known_only(t).demand().iloc[before].to_numpy() for t in (plain, raised)]
    np.testing.assert_array_equal(*made)


def test_resources_keep_to_themselves_and_a_first_gap_stays():
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2026-01-01", periods=3, freq="1h", tz="UTC")], names=["resource_id", "timestamp"]
    )
    frame = pd.DataFrame({"requests": [1.0, 2, 3, 4, 5, 6], "quality_flag": [0.0, 2, 1, 1, 0, 1]}, index=index)
    made = known_only(Telemetry(frame, 3600.0))
    assert made.observations["requests"].tolist() == [1, 2, 2, 4, 5, 5]
    assert frame["requests"].tolist() == [1, 2, 3, 4, 5, 6]


def test_without_flags_nothing_changes():
    telemetry = load("synthetic:web", seed=1, days=2)
    bare = Telemetry(telemetry.observations.drop(columns="quality_flag", errors="ignore"), telemetry.step_seconds)
    assert known_only(bare) is bare
