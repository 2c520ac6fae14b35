"""The quality report: faults put in on purpose are found and counted, and what is sound is left alone."""

import os
import statistics

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import signal

from support.errors import SchemaError
from support.plotting import use_style
from support.telemetry.judging.quality import LIMITS, quality
from support.telemetry.judging.quality_report import CHECKS, QualityReport
from support.telemetry.reading.tidy import tidy
from support.telemetry.schema import Repair, Telemetry
from support.telemetry.sources import load

DAYS = 28
NEEDS_MIRROR = pytest.mark.skipif(not os.environ.get("BOOK_DATA"), reason="needs the mirror of traces, BOOK_DATA")


def sound(ids=("a", "b"), days=DAYS, metrics=("cpu_utilization",), seed=0, cycle=10.0):
    """Noise of SD 3 around 50, a daily cycle, every hour: nothing wrong with it."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2026-03-02", periods=24 * days, freq="1h", tz="UTC")
    index = pd.MultiIndex.from_product([list(ids), times], names=["resource_id", "timestamp"])
    course = 50 + cycle * np.cos(2 * np.pi * np.arange(len(index)) / 24)
    return pd.DataFrame({m: course + rng.normal(0, 3, len(index)) for m in metrics}, index=index)


def checked(frame, **more):
    target = more.pop("target_correlation", None)
    return quality(Telemetry(frame, more.pop("step_seconds", 3600.0), **more), target_correlation=target)


def row(report, check, metric=None):
    table = report.table()
    found = table[(table["check"] == check) & ((table["metric"] == metric) if metric else True)]
    assert len(found) == 1
    return found.iloc[0]


def test_sound_data_are_called_so():
    report = checked(sound())
    assert report.verdict == "good" and report.table(only_findings=True).empty
    assert report.headline() == "11 of 11 checks good"
    assert list(report.table()["check"]) == [c for c in CHECKS if c != "correlation"]
    assert row(report, "daily cycle")["value"] == 100 and row(report, "weekly cycle")["value"] == 0


def test_missing_values_and_gaps_are_counted():
    """A gap of 30 h in b, three single holes in a; 33 of 1344 values; the interval where the longest begins."""
    frame = sound()
    frame.loc[("b", "2026-03-10 05:00") : ("b", "2026-03-11 10:00"), "cpu_utilization"] = np.nan
    frame.iloc[[10, 20, 30], 0] = np.nan
    report = checked(frame)
    gaps, completeness = row(report, "gaps"), row(report, "completeness")
    assert gaps["value"] == 30 and gaps["verdict"] == "bad"
    assert gaps["words"] == "4 in all, the longest of 30 intervals in b from 2026-03-10 05:00 UTC"
    assert completeness["value"] == pytest.approx(100 * (1 - 33 / 1344)) and completeness["verdict"] == "look"
    assert completeness["words"] == "33 of 1,344 values missing or imputed; most in b (4.5 %)"


@pytest.mark.parametrize(("hours", "verdict"), [(1, "good"), (2, "look"), (24, "look"), (25, "bad")])
def test_limits_of_gaps(hours, verdict):
    frame = sound()
    frame.iloc[100 : 100 + hours, 0] = np.nan
    assert row(checked(frame), "gaps")["verdict"] == verdict


def test_what_the_loader_imputed_counts_as_missing():
    times = pd.date_range("2026-03-02", periods=24 * DAYS, freq="1h")
    table = pd.DataFrame({"timestamp": times, "cpu": 50 + np.random.default_rng(1).normal(0, 3, len(times))})
    whole = tidy(table, source="s", provenance="p")
    holed = tidy(table.drop(index=range(50, 55)), source="s", provenance="p")
    assert holed.observations["cpu_utilization"].notna().all()
    assert row(quality(whole), "completeness")["value"] == 100
    assert row(quality(holed), "completeness")["value"] == pytest.approx(100 * (1 - 5 / 672))
    assert row(quality(holed), "gaps")["value"] == 5


def test_duplicates_and_timezone_from_the_loader():
    times = pd.date_range("2026-03-02", periods=24 * DAYS, freq="1h").astype(str)
    table = pd.DataFrame({"timestamp": times, "cpu": np.random.default_rng(2).uniform(40, 60, len(times))})
    table = pd.concat([table, table.iloc[:12], table.iloc[-2:].assign(cpu=50.0)])
    report = quality(tidy(table, source="s", provenance="p", duplicates="mean"))
    duplicates, zone = row(report, "duplicates"), row(report, "timezone")
    assert duplicates["value"] == pytest.approx(100 * (12 + 4) / 686) and duplicates["verdict"] == "look"
    assert "12 rows that repeat another row exactly, dropped" in duplicates["words"]
    assert row(report, "dropped")["value"] == 0  # a row that repeats another is no loss
    assert zone["value"] == 100 and zone["verdict"] == "look" and "carry no timezone, taken as UTC" in zone["words"]
    stated = quality(tidy(table.iloc[:500], source="s", provenance="p", timezone="Etc/GMT-2"))
    assert row(stated, "timezone")["verdict"] == "good"
    assert row(stated, "timezone")["words"] == "500 timestamps converted from Etc/GMT-2 to UTC"


def test_a_row_whose_hour_the_clock_skips_is_dropped_once():
    times = pd.date_range("2026-03-29", periods=24 * 12, freq="5min").astype(str)
    table = pd.DataFrame({"timestamp": times, "cpu": 50.0})
    report = quality(tidy(table, source="s", provenance="p", timezone="Europe/Paris"))
    assert row(report, "dropped")["value"] == pytest.approx(100 * 12 / 288)


def test_dropped_and_moved_rows_from_the_loader():
    times = pd.date_range("2026-03-02 00:00:07", periods=24 * DAYS, freq="1h", tz="UTC")
    values = pd.Series(np.random.default_rng(3).uniform(40, 60, len(times))).mask(lambda v: v.index < 4)
    report = quality(tidy(pd.DataFrame({"timestamp": times, "cpu": values}), source="s", provenance="p"))
    assert row(report, "dropped")["value"] == pytest.approx(100 * 4 / 672)
    cadence = row(report, "cadence")
    assert cadence["verdict"] == "look" and cadence["value"] == pytest.approx(100 * 668 / 672)
    assert cadence["words"].startswith("every 3600 s for 27.8 days; 668 timestamps moved to the grid")
    assert row(report, "timezone")["verdict"] == "good"


def test_spikes_put_in_are_the_outliers_found():
    frame = sound()
    where = np.random.default_rng(4).choice(len(frame), 12, replace=False)
    before = row(checked(frame), "outliers")
    frame.iloc[where, 0] += 40.0
    frame.iloc[700, 0] = 108.0
    found = row(checked(frame), "outliers")
    assert before["value"] == 0 and before["words"] == "none"
    assert found["value"] == pytest.approx(100 * 13 / 1344) and found["verdict"] == "look"
    at = frame.index[700]
    assert found["words"].startswith("13 values more than 5 robust SD")
    assert found["words"].endswith(f"({at[0]}, {at[1]:%Y-%m-%d %H:%M} UTC)")


def test_distances_against_a_loop():
    """The median polish and the MAD once more, with the standard library's median and no arrays."""
    frame = sound(ids=("a",), days=6, seed=7)
    values = frame["cpu_utilization"].to_numpy().copy()
    values[90:] *= 1.5
    days = [list(values[d * 24 : d * 24 + 24]) for d in range(6)]
    days = [[v - statistics.median(day) for v in day] for day in days]
    usual = [statistics.median(day[h] for day in days) for h in range(24)]
    left = [[abs(day[h] - usual[h]) for h in range(24)] for day in days]
    overall = statistics.median(v for day in left for v in day)
    far = [v / (1.4826 * max(overall, statistics.median(day))) for day in left for v in day]
    found = row(checked(frame.assign(cpu_utilization=values)), "outliers")
    assert found["value"] == pytest.approx(100 * sum(f > 5 for f in far) / 144)
    assert max(far) > 5 and f"the farthest {max(far):.3g} " in found["words"]


def test_a_growing_service_is_not_all_outliers():
    """Level and spread grow fiftyfold, as in the World Cup of 1998: each day is judged by its own spread."""
    frame = sound(ids=("a",), seed=5).rename(columns={"cpu_utilization": "requests"})
    growth = np.exp(np.linspace(0, np.log(50), len(frame)))
    assert row(checked(frame.mul(growth, axis=0)), "outliers")["value"] < 0.5


@pytest.mark.parametrize(
    ("metric", "values", "share", "verdict", "said"),
    [
        ("cpu_utilization", [100.0] * 20, 20 / 1344, "look", "1.49 % at 100"),
        ("cpu_utilization", [104.0] * 300, 300 / 1344, "bad", "22.3 % above 100"),
        ("memory_utilization", [0.0] * 5, 5 / 1344, "good", "0.372 % at 0"),
        ("requests", [0.0] * 600, 600 / 1344, "good", "44.6 % at 0"),
        ("availability_percent", [100.0] * 1344, 1.0, "good", "100 % at 100"),
        ("value", [-5.0] * 9, 0.0, "good", "-5 to"),
    ],
)
def test_ranges(metric, values, share, verdict, said):
    frame = sound(metrics=(metric,))
    frame.iloc[: len(values), 0] = values
    found = row(checked(frame), "ranges")
    assert found["value"] == pytest.approx(100 * share) and found["verdict"] == verdict and said in found["words"]


def test_a_fraction_taken_for_a_percentage_is_suspected():
    found = row(checked(sound() / 100), "ranges")
    assert found["verdict"] == "look" and found["words"].endswith("fractions, not percent?")


def test_constant_columns():
    frame = sound(metrics=("cpu_utilization", "memory_utilization"))
    frame.loc["b", "cpu_utilization"] = 7.0
    frame["memory_utilization"] = 30.0
    report = checked(frame)
    assert tuple(row(report, "constant", "cpu_utilization")[["value", "verdict"]]) == (1, "look")
    assert row(report, "constant", "cpu_utilization")["words"] == "1 of 2 resources never change: b"
    assert tuple(row(report, "constant", "memory_utilization")[["value", "verdict"]]) == (2, "bad")
    assert row(report, "daily cycle", "cpu_utilization")["words"].endswith("; 1 cannot be tested")
    assert row(report, "daily cycle", "memory_utilization")["verdict"] == "look"
    assert np.isnan(row(report, "outliers", "memory_utilization")["value"])


def test_a_metric_that_some_or_all_lack():
    frame = sound(ids=("a", "b", "c"), metrics=("cpu_utilization", "memory_utilization"))
    frame.loc["b", "cpu_utilization"] = np.nan
    frame["memory_utilization"] = np.nan
    report = checked(frame)
    assert row(report, "completeness", "cpu_utilization")["words"] == "no value missing; never there in 1 resource"
    table = report.table()
    assert table[table["metric"] == "memory_utilization"]["words"].tolist() == ["no value at all"]
    assert report.headline().startswith("11 of 12 checks good; bad: completeness")


def test_a_cycle_is_seldom_found_in_a_fleet_that_has_none():
    """Holm over 20 machines of AR(1) noise: in 20 fleets, some machine is named in about 1 % of them, not in 18 %."""
    rng, alarms = np.random.default_rng(12), 0
    frame = sound(ids=[f"vm-{i:02d}" for i in range(20)], days=14)
    for _ in range(20):
        noise = signal.lfilter([1.0], [1.0, -0.9], rng.normal(size=(20, 14 * 24 + 100)), axis=1)[:, 100:]
        report = checked(frame.assign(cpu_utilization=50 + noise.ravel()))
        alarms += row(report, "daily cycle")["value"] > 0
    assert alarms <= 1  # with P = 0.98; 18 % would give 3.6


def test_the_share_of_resources_with_a_cycle():
    frame = sound(ids=("a", "b", "c", "d"), seed=6)
    flat = sound(ids=("a", "b", "c", "d"), seed=7, cycle=0.0)
    frame.loc["c"] = flat.loc["c"].to_numpy()
    found = row(checked(frame), "daily cycle")
    assert found["value"] == 75 and found["words"].startswith(
        "found in 3 of 4 resources and makes 7"
    )  # 50 of 59 before ranks


def test_short_records_say_so():
    found = row(checked(sound(days=14)), "weekly cycle")
    assert found["verdict"] == "look" and "shorter than 4 cycles" in found["words"] and np.isnan(found["value"])


def test_correlation_against_a_target():
    metrics = ["cpu_utilization", "memory_utilization", "requests"]
    frame = sound(metrics=metrics, cycle=0.0)
    frame["memory_utilization"] = 50 + 0.6 * (frame["cpu_utilization"] - 50) + 0.8 * (frame["memory_utilization"] - 50)
    frame["memory_utilization"] += np.where(frame.index.get_level_values(0) == "b", 20.0, 0.0)  # no correlation
    measured = np.mean([np.corrcoef(frame.loc[i].to_numpy().T) for i in "ab"], axis=0)
    target = pd.DataFrame(measured, metrics, metrics)
    report = checked(frame, target_correlation=target)
    assert report.table().query("check == 'correlation'")["value"].to_numpy() == pytest.approx(0, abs=1e-12)
    for off, verdict in ((0.04, "good"), (0.1, "look"), (0.3, "bad")):
        wanted = target.copy()
        wanted.iloc[0, 1] = wanted.iloc[1, 0] = measured[0, 1] + off
        found = row(checked(frame, target_correlation=wanted), "correlation", "cpu_utilization")
        assert found["value"] == pytest.approx(off) and found["verdict"] == verdict
        assert found["words"] == f"with memory_utilization: {measured[0, 1]:.2f}, wanted {measured[0, 1] + off:.2f}"
    for wrong in (target.rename(columns={"requests": "errors"}), target.iloc[::-1], target.iloc[:1, :1]):
        with pytest.raises(SchemaError, match="target_correlation must be symmetric"):
            checked(frame, target_correlation=wrong)
    partly = target.mask(np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=bool))
    only = checked(frame, target_correlation=partly).table().query("check == 'correlation'")
    assert only["metric"].tolist() == metrics[:2]  # no correlation with requests is wanted
    frame["requests"] = 1.0
    assert row(checked(frame, target_correlation=target), "correlation", "requests")["verdict"] == "bad"


def test_the_figure_says_what_the_table_says():
    use_style()
    frame = sound(metrics=("cpu_utilization", "requests"))
    frame.iloc[40:80, 0] = np.nan
    report = checked(
        frame, repairs=(Repair("rows read", 1400), Repair("timestamps carry no timezone, taken as UTC", 1400))
    )
    axes = report.plot()
    assert len(axes.patches) == len(report.table()) == 4 + 2 * 7
    texts = [t.get_text() for t in axes.texts]
    assert sum("\nbad" in t for t in texts) == (report.table()["verdict"] == "bad").sum() == 1
    assert sum("\nlook" in t for t in texts) == (report.table()["verdict"] == "look").sum() == 2
    assert "40\nbad" in texts and axes.get_title(loc="left").endswith("bad: gaps; look at timezone, completeness")
    axes.figure.canvas.draw()
    plt.close("all")


def test_of_many_metrics_the_figure_shows_those_with_findings():
    metrics = tuple(f"metric_{i:02d}" for i in range(1, 31))
    frame = sound(ids=("a",), days=14, metrics=metrics)
    frame["metric_29"] = 1.0
    report = checked(frame)
    axes = report.plot(plt.subplots()[1])
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert len(labels) == 12 and "metric 29" in labels and "(12 of 30 metrics shown)" in axes.get_title(loc="left")
    plt.close("all")


def test_limits_are_for_checks_there_are():
    assert set(LIMITS) <= set(CHECKS) and all(good <= look for good, look in LIMITS.values())


@NEEDS_MIRROR
@pytest.mark.parametrize(
    ("name", "check", "value", "verdict"),
    [
        ("artificialNoAnomaly/art_flatline.csv", "constant", 1, "bad"),
        ("realKnownCause/nyc_taxi.csv", "daily cycle", 100, "good"),
        ("realKnownCause/nyc_taxi.csv", "gaps", 0, "good"),
        ("realAWSCloudwatch/ec2_cpu_utilization_825cc2.csv", "timezone", 100, "look"),
    ],
)
def test_nab(name, check, value, verdict):
    found = row(quality(load(f"nab:{name}")), check)
    assert found["value"] == value and found["verdict"] == verdict


@NEEDS_MIRROR
def test_worldcup98():
    report = quality(load("worldcup98"))
    assert isinstance(report, QualityReport) and report.verdict == "look"
    assert row(report, "daily cycle")["value"] == row(report, "weekly cycle")["value"] == 100
    assert row(report, "ranges")["words"].startswith("0 to 2.294e+05 requests")  # 229,426 on 7 July 1998
