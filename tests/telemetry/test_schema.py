"""Telemetry: what the type refuses, and what resampling and demand do, against plain numpy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.telemetry import METRICS, Repair, Telemetry

NUMBERS = st.floats(0, 1e6)


def frame(values, *, first="2026-01-01", step=60, ids=("web",), tz="UTC"):
    times = pd.date_range(first, periods=len(next(iter(values.values()))), freq=f"{step}s", tz=tz)
    index = pd.MultiIndex.from_product([list(ids), times], names=["resource_id", "timestamp"])
    return pd.DataFrame({k: np.tile(np.asarray(v, dtype=float), len(ids)) for k, v in values.items()}, index=index)


def refuse(observations, match, step=60.0):
    with pytest.raises(SchemaError, match=match) as caught:
        Telemetry(observations, step, source="my.csv")
    assert str(caught.value).startswith("my.csv: ") and "\n" not in str(caught.value)


GOOD = frame({"requests": [1, 2, 3, 4]})


def test_naive_time():
    refuse(frame({"requests": [1, 2, 3]}, tz=None), "no timezone")


def test_other_timezone():
    refuse(frame({"requests": [1, 2, 3]}, tz="Europe/Paris"), ".")


def test_duplicates():
    refuse(pd.concat([GOOD, GOOD.iloc[[1]]]).sort_index(), "web has two rows at 2026-01-01 00:01:00")


def test_unsorted():
    refuse(GOOD.iloc[[0, 2, 1, 3]], "not sorted")


def test_gap():
    refuse(GOOD.iloc[[0, 1, 3]], "web has a gap or an uneven step before 2026-01-01 00:03:00")


def test_step_that_does_not_match():
    refuse(GOOD, "uneven step", step=300.0)


def test_negative():
    refuse(frame({"requests": [1, -2, 3]}), "requests.*1 row,.*-2")


def test_above_the_highest_value():
    refuse(frame({"cpu_utilization": [1, 20, 300]}), "cpu_utilization.*300")


def test_unknown_column():
    refuse(frame({"requests": [1, 2, 3], "moon_phase": [0, 1, 2]}), "moon_phase.*Known columns: requests")


def test_integers_are_refused():
    refuse(GOOD.astype(int), "requests")


def test_empty():
    refuse(GOOD.iloc[:0], "no observations")


@pytest.mark.parametrize("step", [0.0, -60.0, float("nan")])
def test_step_not_positive(step):
    refuse(GOOD, "step_seconds", step=step)


def test_index_names():
    refuse(GOOD.rename_axis(["vm", "at"]), "the index is")


def test_metrics_units_and_series():
    both = frame({"cpu_utilization": [1, 2, 3], "requests": [5, 6, 7], "quality_flag": [0, 0, 1]}, ids=("a", "b"))
    telemetry = Telemetry(both, 60.0)
    assert telemetry.metrics == ["requests", "cpu_utilization"] and telemetry.resource_ids == ["a", "b"]
    assert telemetry.unit("requests") == "requests per interval"
    assert telemetry.series("requests", "b").tolist() == [5, 6, 7]
    assert telemetry.series("requests", "b").index.freq == pd.Timedelta("60s")
    with pytest.raises(SchemaError, match="2 resources"):
        telemetry.series("requests")
    with pytest.raises(SchemaError, match="no resource 'c'"):
        telemetry.series("requests", "c")
    with pytest.raises(SchemaError, match="no metric 'queue_length'"):
        telemetry.series("queue_length", "a")


def test_demand_needs_every_value():
    with pytest.raises(SchemaError, match="requests is missing at 2026-01-01 00:01:00"):
        Telemetry(frame({"requests": [1, np.nan, 3]}), 60.0).demand()


def test_demand_of_utilisation_is_the_mean():
    data = frame({"cpu_utilization": [10, 20]}, ids=("a", "b"))
    data.loc["b", "cpu_utilization"] = [30.0, 60.0]
    assert Telemetry(data, 60.0).demand().tolist() == [20.0, 40.0]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=5))
def test_demand_sums_the_resources(rows):
    ids = [f"vm{i}" for i in range(len(rows))]
    data = frame({"requests": [0] * 4}, ids=ids)
    data["requests"] = np.concatenate(rows)
    telemetry = Telemetry(data, 60.0)
    demand = telemetry.demand()
    assert demand.name == "requests" and demand.index.freq == pd.Timedelta("60s")
    np.testing.assert_allclose(demand, [sum(row[t] for row in rows) for t in range(4)], rtol=1e-12)
    for name, row in zip(ids, rows, strict=True):
        assert telemetry.demand(name).tolist() == row


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(
        st.tuples(NUMBERS, st.floats(0, 100), NUMBERS, st.sampled_from([0.0, 1.0, 2.0])), min_size=12, max_size=60
    ),
    ratio=st.integers(2, 6),
    offset=st.integers(0, 5),
)
def test_resample_against_a_loop(values, ratio, offset):
    columns = dict(
        zip(["requests", "cpu_utilization", "queue_length", "quality_flag"], np.array(values).T, strict=True)
    )
    first = pd.Timestamp("2026-01-01") + offset * pd.Timedelta("60s")
    telemetry = Telemetry(frame(columns, first=first, ids=("a", "b")), 60.0)
    origin = telemetry.observations.loc["a"].index[0].value // 60_000_000_000
    groups: dict[int, list[int]] = {}
    for position in range(len(values)):
        groups.setdefault((origin + position) // ratio, []).append(position)
    whole = [g for g in groups.values() if len(g) == ratio]
    coarse = telemetry.resample(60.0 * ratio)
    assert coarse.step_seconds == 60.0 * ratio
    for name in ("a", "b"):
        part = coarse.observations.loc[name]
        array = np.array(values)
        np.testing.assert_allclose(part["requests"], [array[g, 0].sum() for g in whole], rtol=1e-9)
        np.testing.assert_allclose(part["cpu_utilization"], [array[g, 1].mean() for g in whole], rtol=1e-9, atol=1e-9)
        assert part["queue_length"].tolist() == [array[g[-1], 2] for g in whole]
        assert part["quality_flag"].tolist() == [array[g, 3].max() for g in whole]
    kept = np.concatenate(whole)
    assert coarse.observations["requests"].sum() == pytest.approx(2 * np.array(values)[kept, 0].sum(), rel=1e-9)
    assert coarse.repairs[-1].count == 2 * (len(groups) - len(whole))


def test_resample_of_whole_hours_conserves_the_total():
    telemetry = Telemetry(frame({"requests": np.arange(240)}), 60.0)
    assert telemetry.resample(3600.0).demand().sum() == 239 * 240 / 2


def test_resample_refuses():
    telemetry = Telemetry(frame({"requests": np.arange(30)}), 60.0)
    assert telemetry.resample(60.0) is telemetry
    for step in (90.0, 30.0, 61.0):
        with pytest.raises(SchemaError, match="no multiple"):
            telemetry.resample(step)
    with pytest.raises(SchemaError, match="shorter than one interval"):
        telemetry.resample(7200.0)


def test_quality_report():
    telemetry = Telemetry(
        frame({"requests": [1, np.nan, 3], "quality_flag": [0, 1, 0]}), 60.0, repairs=(Repair("rows read", 3),)
    )
    report = telemetry.quality_report().set_index("what")["rows"]
    assert report.to_dict() == {"rows read": 3, "observations after loading": 3, "values still missing": 1}


def test_every_metric_has_a_unit_a_range_and_a_rule():
    for unit, low, high, how in METRICS.values():
        assert unit and low < high and how in ("sum", "mean", "last", "max")


def test_resources_on_shifted_grids_are_refused_and_none_is_left_out_of_the_demand():
    parts = [
        frame({"requests": [1, 2, 3, 4]}, ids=("a",)),
        frame({"requests": [1, 2, 3, 4]}, ids=("b",), first="2026-01-01 00:00:30"),
    ]
    shifted = Telemetry(pd.concat(parts), 60.0, source="my.csv")
    with pytest.raises(SchemaError, match=r"my.csv: resources are measured at different times within a step of 60 s"):
        shifted.demand()
    assert shifted.demand("b").tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("step", [float("nan"), float("inf"), 0.0, -60.0])
def test_resample_to_no_step_is_refused(step):
    with pytest.raises(SchemaError, match="my.csv: step_seconds is .*positive") as caught:
        Telemetry(GOOD, 60.0, source="my.csv").resample(step)
    assert "\n" not in str(caught.value)
