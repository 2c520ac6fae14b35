"""What each reader makes of the real files: facts of their publishers, naive loops, and hostile pickles."""

import csv
import functools
import io
import itertools
import json
import math
import os
import pickle
import statistics
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from support.errors import SourceError
from support.telemetry import load
from support.telemetry.reading import readers, readers_machines
from support.telemetry.reading.files import pickled_array
from support.telemetry.reading.tidy import tidy
from support.telemetry.reading.traces import list_traces, read_llm_events

ROOT = Path(__file__).resolve().parents[2]
MIRROR = Path(os.environ.get("BOOK_DATA") or ROOT.parent / "shared" / "data")
needs_mirror = pytest.mark.skipif(not (MIRROR / "registry.csv").exists(), reason="no mirror of the traces")


@functools.cache
def loaded(source):
    with mock.patch.dict(os.environ, BOOK_DATA=str(MIRROR)):
        return load(source)


def raw(dataset, file, **options):
    with (MIRROR / dataset / file).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, **options))


def repairs(telemetry):
    return {repair.what: repair.count for repair in telemetry.repairs}


def repaired(telemetry, part):
    """Count of the only repair that mentions `part`."""
    (count,) = [count for what, count in repairs(telemetry).items() if part in what]
    return count


def flagged(telemetry):
    return telemetry.observations["quality_flag"] == 1


def autocorrelation(values, lag):
    return np.corrcoef(values[:-lag], values[lag:])[0, 1]


@needs_mirror
def test_every_source_of_the_mirror_loads(monkeypatch):
    """Each file of the mirror that is no notice is behind one of these (see test_traces.py)."""
    monkeypatch.setenv("BOOK_DATA", str(MIRROR))
    table = list_traces()
    sources = sorted(set(table["source"]) - {""})
    assert len(sources) == 64
    for source in sources:
        telemetry = loaded(source)
        frame = telemetry.observations
        files = table.loc[table["source"] == source, "file"]
        assert telemetry.source == source and len(frame) >= 5 and frame.notna().any(axis=None), source
        assert not np.isinf(frame.to_numpy()).any()
        assert set(frame.index.unique(level=0)) == set(telemetry.resources.index), source
        assert telemetry.repairs[0].what.endswith(("rows read", "lines read"))
        assert all(repair.count > 0 for repair in telemetry.repairs)
        assert telemetry.synthetic == files.str.startswith("artificial").any()
        assert telemetry.provenance.startswith(("Real trace", "Artificial series")[telemetry.synthetic])
        assert "Licence: " in telemetry.provenance and "Cite " in telemetry.provenance
        for label in telemetry.labels.itertuples():
            times = frame.loc[label.resource_id].index
            assert label.start in times and label.end in times and label.start <= label.end, source
            assert set(filter(None, label.metrics.split(","))) <= set(telemetry.metrics)


@needs_mirror
def test_worldcup98():
    telemetry = loaded("worldcup98")
    demand = telemetry.demand()
    assert telemetry.metrics == ["requests"] and telemetry.step_seconds == 60
    assert len(demand) == 125_310 and demand.sum() == 1_352_804_107  # the published total
    assert demand.max() == 229_426 and demand.idxmax() == pd.Timestamp("1998-07-07 21:41", tz="UTC")
    assert demand.index[0] == pd.Timestamp("1998-04-30 21:30", tz="UTC")
    assert repaired(telemetry, "filled with 0") == 10 == 125_310 - len(raw("worldcup98", "invocation_count.csv"))
    assert set(demand[demand == 0].index.strftime("%d %b")) == {"08 May", "17 May", "18 May"}
    assert "WorldCup.html" in telemetry.provenance


NAB = {  # series: metric, rows of the grid
    "realAWSCloudwatch/ec2_cpu_utilization_5f5533": ("cpu_utilization", 4032),
    "realAWSCloudwatch/elb_request_count_8c0756": ("requests", 4040),
    "realAWSCloudwatch/ec2_network_in_257a54": ("network_in_mbps", 4034),
    "realAWSCloudwatch/ec2_disk_write_bytes_1ef3de": ("disk_write_mbps", 4730),
    "realKnownCause/ec2_request_latency_system_failure": ("latency_ms", 4033),
    "realKnownCause/machine_temperature_system_failure": ("value", 22_683),
    "realKnownCause/nyc_taxi": ("requests", 10_320),
    "realTweets/Twitter_volume_IBM": ("requests", 15_893),
}


@needs_mirror
@pytest.mark.parametrize("name", NAB)
def test_nab_metrics_and_units(name):
    metric, n_rows = NAB[name]
    telemetry = loaded(f"nab:{name}")
    step = 1800 if "taxi" in name else 300
    assert telemetry.metrics == [metric] and telemetry.step_seconds == step and len(telemetry.observations) == n_rows
    values = [float(row["value"]) for row in raw("nab", f"{name}.csv")]
    factor = 8 / 1e6 / step if metric.endswith("_mbps") else 1.0
    kept = telemetry.observations[metric]
    if "quality_flag" in telemetry.observations:
        kept = kept[~flagged(telemetry)]
    if "machine_temperature" not in name:  # there, the mean of 12 pairs is taken
        assert len(kept) == len(values) and kept.sum() == pytest.approx(factor * sum(values), rel=1e-12)
    assert kept.max() == pytest.approx(factor * max(values)) and kept.min() == pytest.approx(factor * min(values))


@needs_mirror
@pytest.mark.parametrize(
    "name", ["realAWSCloudwatch/ec2_disk_write_bytes_1ef3de", "realKnownCause/ec2_request_latency_system_failure"]
)
def test_nab_hour_that_the_clock_skipped(name):
    """Its 12 rows are stamped 03:00:00 in the file, in order; they belong to 02:00 .. 02:55."""
    telemetry = loaded(f"nab:{name}")
    rows = raw("nab", f"{name}.csv")
    (stamp, count), *_ = Counter(row["timestamp"] for row in rows).most_common(1)
    assert count == 12 and stamp.startswith("2014-03-09 03:0")
    lost = [float(row["value"]) for row in rows if row["timestamp"] == stamp]
    series = telemetry.series(telemetry.metrics[0])
    end = pd.Timestamp(stamp, tz="UTC").round("300s")
    window = series[(series.index > end - pd.Timedelta("65min")) & (series.index < end + pd.Timedelta("5min"))]
    factor = 8 / 1e6 / 300 if "disk" in name else 1.0
    assert (pd.Series(lost).mul(factor).round(9).isin(window.round(9))).all()
    assert repaired(telemetry, "daylight saving") == 12
    if "disk" in name:  # no other hole: the file, row by row, is the grid
        np.testing.assert_allclose(series, [factor * float(row["value"]) for row in rows], rtol=1e-12)


@needs_mirror
def test_nab_backward_step_sparse_series_and_flat_line():
    machine = loaded("nab:realKnownCause/machine_temperature_system_failure")
    assert repaired(machine, "share a timestamp") == 24 and repaired(machine, "ran backwards") == 1
    twice = [float(r["value"]) for r in raw("nab", "realKnownCause/machine_temperature_system_failure.csv")
             if r["timestamp"] == "2014-01-07 02:00:00"]  # fmt: skip
    assert len(twice) == 2
    assert machine.series("value")["2014-01-07 02:00:00+00:00"] == pytest.approx(statistics.mean(twice))
    key = loaded("nab:realKnownCause/rogue_agent_key_hold")
    values = [float(r["value"]) for r in raw("nab", "realKnownCause/rogue_agent_key_hold.csv")]
    held = key.observations["value"].dropna()
    assert len(held) == 1882 == len(values) and held.tolist() == pytest.approx(values, rel=1e-15)
    assert key.observations["value"].isna().sum() == repaired(key, "left missing") == 3456
    flat = loaded("nab:artificialNoAnomaly/art_flatline")
    assert flat.synthetic and flat.observations["value"].unique().tolist() == [45.0]


@needs_mirror
def test_nab_labels_are_the_windows_of_the_json(monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(MIRROR))
    windows = json.loads((MIRROR / "nab" / "labels" / "combined_windows.json").read_text())
    table = list_traces()
    files = table.loc[table["source"].str.startswith("nab:"), "file"]
    assert len(files) == 24
    for file in files:
        telemetry = loaded("nab:" + file.removesuffix(".csv"))
        assert len(telemetry.labels) == len(windows[file])
        for label, (start, end) in zip(telemetry.labels.itertuples(), windows[file], strict=True):
            for found, told in ((label.start, start), (label.end, end)):
                late = abs((found.tz_localize(None) - datetime.fromisoformat(told)).total_seconds())
                assert late <= telemetry.step_seconds / 2 + 1, file
            assert label.kind == "labelled window" and label.metrics == telemetry.metrics[0]


@needs_mirror
def test_appserver_hourly_is_central_european_wall_clock():
    telemetry = loaded("appserver-traffic:hourly")
    assert len(telemetry.observations) == 44_045 and telemetry.step_seconds == 3600
    series = telemetry.series("requests")
    zone, kept = ZoneInfo("Europe/Brussels"), {}
    for row in raw("appserver-traffic", "traffic_stats_HOURLY_CHs.csv"):
        wall = datetime(*(int(row[part]) for part in ("year", "month", "day", "hour")), tzinfo=zone)
        kept[wall.astimezone(UTC)] = float(row["requests"])
        assert wall.astimezone(UTC).astimezone(zone).hour == wall.hour  # no row in an hour that did not exist
    assert len(kept) == 44_026
    measured = series[~flagged(telemetry).to_numpy()]
    assert measured.index.tolist() == sorted(kept) and measured.tolist() == [kept[time] for time in sorted(kept)]
    assert series.max() == 1_177_204 and series.idxmax() == pd.Timestamp("2017-07-19 20:00", tz="UTC")
    filled = series[flagged(telemetry).to_numpy()].index.tz_convert(zone)
    assert len(filled) == 19  # 14 outages, and the second of the two hours in 5 autumns
    second = [time for time in filled if time.month == 10 and time.day >= 25 and time.hour == 2 and time.fold == 1]
    assert len(second) == 5
    assert not [time for time in filled if time.month == 3 and time.day >= 25 and time.dayofweek == 6]
    assert autocorrelation(series.to_numpy(), 24) == pytest.approx(0.95, abs=0.01)
    assert autocorrelation(series.to_numpy(), 168) == pytest.approx(0.96, abs=0.01)


@needs_mirror
def test_appserver_daily_failover():
    telemetry = loaded("appserver-traffic:daily")
    assert telemetry.resource_ids == ["as-01", "as-02", "as-03", "as-04"] and len(telemetry.observations) == 1834 * 4
    requests = telemetry.observations["requests"].unstack("resource_id")
    out = requests == 0
    assert out.sum().to_dict() == {"as-01": 6, "as-02": 6, "as-03": 0, "as-04": 0}
    rows = raw("appserver-traffic", "traffic_stats_DAILY.csv")
    by_host = Counter()
    for row in rows[4:-4]:  # the first and the last day are recorded in part
        by_host[row["host"]] += int(row["requests"])
    assert requests.sum().to_dict() == by_host and len(rows) == 7344
    share = requests.div(requests.sum(axis=1), axis=0)[~out.any(axis=1)]
    assert share.median().between(0.23, 0.27).all()
    assert (requests.loc["2017-07-12"] > 0).tolist() == [False, False, True, True]


@needs_mirror
@pytest.mark.parametrize(
    ("service", "n_requests", "cv", "empty"), [("code", 8819, 13.2, 13), ("conv", 19_366, 1.09, 0)]
)
def test_azure_llm(monkeypatch, service, n_requests, cv, empty):
    telemetry = loaded(f"azure-llm-2023:{service}")
    per_minute, tokens = Counter(), Counter()
    for row in raw("azure-llm-2023", f"AzureLLMInferenceTrace_{service}.csv"):
        per_minute[row["TIMESTAMP"][:16]] += 1
        tokens[row["TIMESTAMP"][:16]] += int(row["GeneratedTokens"])
    frame = telemetry.observations.loc[service]
    minutes = frame.index.strftime("%Y-%m-%d %H:%M")
    assert frame["requests"].tolist() == [per_minute[minute] for minute in minutes]
    assert frame["output_tokens"].tolist() == [tokens[minute] for minute in minutes]
    assert frame["requests"].sum() == n_requests and (frame["requests"] == 0).sum() == empty
    monkeypatch.setenv("BOOK_DATA", str(MIRROR))
    events = read_llm_events(service)
    gaps = events["timestamp"].diff().dt.total_seconds().dropna()
    assert len(events) == n_requests and (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.01)
    assert events["output_tokens"].max() == {"code": 1899, "conv": 1000}[service]
    assert events["input_tokens"].median() == {"code": 1469, "conv": 1020}[service]
    stamps = [row["TIMESTAMP"] for row in raw("azure-llm-2023", f"AzureLLMInferenceTrace_{service}.csv")]
    told = sorted(datetime.fromisoformat(stamp[:26]).replace(tzinfo=UTC) for stamp in stamps)
    assert events["timestamp"].tolist() == told and {len(stamp) for stamp in stamps} == {27}


@needs_mirror
def test_azure_llm_both_services():
    both = loaded("azure-llm-2023")
    assert both.resource_ids == ["code", "conv"] and both.observations["requests"].sum() == 8819 + 19_366


@needs_mirror
def test_azure_v2_calendar_has_the_right_weekends():
    telemetry = loaded("azure-v2-aggregate")
    cores = telemetry.series("cpu_cores_used")
    assert (
        len(cores) == 8640
        and cores.min() == pytest.approx(5.19e4, rel=1e-3)
        and cores.max() == pytest.approx(7.81e4, rel=1e-3)
    )
    assert telemetry.series("memory_assigned_gib").max() == pytest.approx(2.19e6, rel=3e-3)
    day = (cores.index - cores.index[0]).days
    assert set(day[cores.index.dayofweek >= 5]) == {d for d in range(30) if d % 7 in (1, 2)}
    weekend = cores[cores.index.dayofweek >= 5].mean()
    assert cores[cores.index.dayofweek < 5].mean() / weekend == pytest.approx(1.1, abs=0.03)
    assert autocorrelation(cores.to_numpy(), 288) == pytest.approx(0.57, abs=0.02)
    assert any("artificial" in what for what in repairs(telemetry)) and any(
        "presumed" in what for what in repairs(telemetry)
    )


@needs_mirror
def test_apache_logs():
    telemetry = loaded("apache-logs")
    requests = telemetry.series("requests")
    assert requests.sum() == 10_000 and len(requests) == 84 and requests.between(74, 136).all()
    assert requests.index[0] == pd.Timestamp("2015-05-17 10:00", tz="UTC") and telemetry.step_seconds == 3600
    assert repaired(telemetry, "cut within quotation") == 1 and repaired(telemetry, "sizes of -") == 669
    assert "not for rates" in telemetry.provenance


BITBRAINS = {  # CPU %: mean, p99, max; hours of the largest hole
    33: (9.5, 35, 103, 30 + 40 / 60), 375: (8.4, 15, 30, 30 + 40 / 60), 384: (22, 74, 94, 31.5), 407: (70, 102, 107, 0.75),
    411: (27, 67, 79, 0.75), 421: (17, 24, 30, 0.25),
}  # fmt: skip


@needs_mirror
@pytest.mark.parametrize("vm", BITBRAINS)
def test_bitbrains_rnd(vm):
    mean, p99, highest, hole_hours = BITBRAINS[vm]
    telemetry = loaded(f"bitbrains-rnd:{vm}")
    cpu = telemetry.series("cpu_utilization")
    assert cpu.mean() == pytest.approx(mean, rel=0.03, abs=0.5) and cpu.quantile(0.99) == pytest.approx(p99, abs=1)
    assert cpu.max() == pytest.approx(highest, abs=1)
    runs = cpu.isna().groupby(cpu.notna().cumsum()).sum()
    assert runs.max() == round(hole_hours * 12) - 1  # a hole between two rows lacks one interval less than its length
    assert abs(cpu.index[0] - pd.Timestamp("2013-06-30 22:00", tz="UTC")) <= pd.Timedelta("5min")
    assert abs(cpu.index[-1] - pd.Timestamp("2013-07-30 21:55", tz="UTC")) <= pd.Timedelta("5min")


@needs_mirror
def test_bitbrains_rnd_units_against_a_loop():
    telemetry = loaded("bitbrains-rnd:375")
    with (MIRROR / "bitbrains-rnd" / "2013-7" / "375.csv").open() as file:
        rows = [[float(field) for field in line.split(";\t")] for line in file.readlines()[1:]]
    means = telemetry.observations.mean()
    assert means["cpu_utilization"] == pytest.approx(statistics.mean(row[4] for row in rows))
    assert means["memory_utilization"] == pytest.approx(100 * statistics.mean(row[6] / row[5] for row in rows))
    columns = {"disk_read_mbps": 7, "disk_write_mbps": 8, "network_in_mbps": 9, "network_out_mbps": 10}
    for metric, k in columns.items():
        assert means[metric] == pytest.approx(statistics.mean(row[k] for row in rows) * 1024 * 8 / 1e6, rel=1e-9)
    assert len(rows) == 8262 == telemetry.observations["cpu_utilization"].notna().sum()
    seconds = telemetry.observations.dropna().index.get_level_values("timestamp").asi8 / 1e9
    assert np.abs(seconds - [row[0] for row in rows]).max() <= 300
    assert telemetry.resources.loc["375", "cpu_count"] == 2
    assert telemetry.resources.loc["375", "memory_gib"] == pytest.approx(max(row[5] for row in rows) / 2**20)


@needs_mirror
def test_bitbrains_rnd_machines_that_come_and_go():
    gone, born = loaded("bitbrains-rnd:122"), loaded("bitbrains-rnd:14")
    lines = (MIRROR / "bitbrains-rnd" / "2013-7" / "122.csv").read_text().splitlines()[1:]
    off = [line for line in lines if line.split(";\t")[1] == "0"]
    assert len(lines) == 16_640 and len(lines) - len(set(lines)) == 4218
    assert repaired(gone, "without cores") == len(off) > 4218
    assert gone.series("cpu_utilization").index[-1].date() == pd.Timestamp("2013-07-16").date()
    assert gone.series("cpu_utilization").mean() < 2 and gone.resources.loc["122", "cpu_count"] == 4
    assert born.series("cpu_utilization").index[0].date() == pd.Timestamp("2013-07-29").date()
    assert born.observations["memory_utilization"].between(0, 110).all() and len(born.observations) < 428
    everyone = loaded("bitbrains-rnd")
    assert everyone.resource_ids == sorted(["14", "33", "122", "375", "384", "407", "411", "421"])
    pd.testing.assert_frame_equal(everyone.observations.loc[["122"]], gone.observations)


@needs_mirror
def test_bitbrains_faststorage():
    telemetry = loaded("bitbrains-faststorage")
    usage = telemetry.observations["cpu_utilization"].dropna()
    assert len(telemetry.resource_ids) == 50 and repairs(telemetry)["rows read"] == 276_979
    assert usage.median() == pytest.approx(1.3, abs=0.4)  # a row of 10 minutes counts twice
    assert usage.max() == pytest.approx(106, abs=1)
    assert usage.quantile(0.99) == pytest.approx(104, abs=1) and (usage > 100).mean() == pytest.approx(0.07, abs=0.02)
    means = usage.groupby("resource_id").mean()
    assert means.min() == pytest.approx(0, abs=0.1) and means.max() == pytest.approx(
        67.2, abs=0.1
    )  # 72 by rows, not time
    rows = pd.read_parquet(MIRROR / "bitbrains-faststorage" / "trace.parquet")
    rows = rows[(rows["duration"] <= 3_600_000) & (rows["cpu_count"] > 0)]
    starts = (rows["timestamp"] - pd.to_timedelta(rows["duration"], unit="ms")).groupby(rows["id"]).min()
    ends = rows["timestamp"].groupby(rows["id"]).max()
    times = telemetry.observations.reset_index("timestamp").groupby(level=0)["timestamp"]
    early, late = (times.min() - starts).dt.total_seconds(), (times.max() - ends).dt.total_seconds() + 300
    # Stamps end an interval and drift by up to 5 minutes in a month; the grid keeps starts, as a whole within half a step.
    assert early.abs().max() < 300 and late.abs().max() < 300
    assert abs((early + late).mean() / 2) < 150
    one = loaded(f"bitbrains-faststorage:{telemetry.resource_ids[7]}")
    pd.testing.assert_frame_equal(one.observations, telemetry.observations.loc[[telemetry.resource_ids[7]]])


@needs_mirror
def test_bitbrains_faststorage_keeps_the_work_done():
    """CPU use times duration of the rows of at most an hour, over all VMs, against the grid."""
    folder = MIRROR / "bitbrains-faststorage"
    rows = pd.read_parquet(folder / "trace.parquet")
    rows = rows[(rows["duration"] <= 3_600_000) & (rows["cpu_count"] > 0)]
    capacity = pd.read_parquet(folder / "meta.parquet").set_index("id")["cpu_capacity"]
    work = (rows["cpu_usage"] * rows["duration"] / 1000).groupby(rows["id"]).sum() / capacity
    on_grid = loaded("bitbrains-faststorage").observations["cpu_utilization"].groupby(level=0).sum() / 100 * 300
    assert len(work) == 50
    np.testing.assert_allclose(on_grid.loc[work.index], work, rtol=0.005)


NOISE = {  # rows, VMs, median [1/s], coefficient of variation
    "long_eastus_B8ms": (6942, 3, 1.377e6, 0.023), "long_eastus_D8s_v5": (10_391, 3, 2.249e6, 0.041),
    "long_westus2_B8ms": (11_426, 3, 1.152e6, 0.026), "long_westus2_D8s_v5": (20_731, 3, 2.247e6, 0.042),
    "short_eastus_B8ms": (11_819, 11_819, 1.379e6, 0.140), "short_eastus_D8s_v5": (11_868, 11_868, 2.358e6, 0.085),
    "short_westus2_B8ms": (9286, 9286, 1.301e6, 0.118), "short_westus2_D8s_v5": (10_628, 10_628, 2.362e6, 0.086),
}  # fmt: skip


@needs_mirror
@pytest.mark.parametrize("name", NOISE)
def test_azure_vm_noise(name):
    n_rows, n_vms, median, cv = NOISE[name]
    telemetry = loaded(f"azure-vm-noise:{name}")
    rate = telemetry.observations["throughput_rps"].dropna()
    assert repairs(telemetry)["rows read"] == n_rows and len(telemetry.resource_ids) == n_vms
    assert rate.median() == pytest.approx(median, rel=0.005)
    assert 0.85 * cv < rate.std() / rate.mean() < 1.02 * cv  # means of an interval spread a little less than runs
    lifespan, region, sku = name.split("_", 2)
    assert (telemetry.resources == [region, sku, lifespan]).all(axis=None)
    if lifespan == "short":
        assert len(rate) == n_rows and sorted(rate) == sorted(
            float(r["value"]) for r in raw("azure-vm-noise", f"redis_get/{name}.csv")
        )


@needs_mirror
def test_azure_vm_noise_intervals_against_a_loop():
    telemetry = loaded("azure-vm-noise:long_eastus_D8s_v5")
    assert telemetry.step_seconds == 7200
    groups = {}
    for row in raw("azure-vm-noise", "redis_get/long_eastus_D8s_v5.csv"):
        start = datetime.fromisoformat(row["starttime"]).replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
        start -= timedelta(hours=start.hour % 2)
        groups.setdefault((f"long_eastus_D8s_v5/{row['VM_id']}", start), []).append(float(row["value"]))
    rate = telemetry.observations["throughput_rps"].dropna()
    assert set(rate.index) == set(groups)
    assert all(rate[key] == pytest.approx(statistics.mean(values)) for key, values in list(groups.items())[::50])
    assert repaired(telemetry, "same interval") == 10_391 - len(groups)
    measured = rate.index.get_level_values("timestamp").unique().sort_values()
    assert measured.to_series().diff().max() / pd.Timedelta("1D") == pytest.approx(65, abs=0.2)  # of all three VMs


ANOMALIES = {1: (10.2, 7), 2: (1.3, 4), 4: (3.5, 5), 6: (4.6, 10), 9: (6.9, 8), 12: (3.1, 5)}  # % of test rows, number


@needs_mirror
@pytest.mark.parametrize("server", ANOMALIES)
def test_asd(server):
    percent, n_anomalies = ANOMALIES[server]
    telemetry = loaded(f"asd:omi-{server}")
    n_train = 7291 if server == 12 else 8640
    folder = MIRROR / "asd" / "processed"
    parts = [
        np.frombuffer((folder / f"omi-{server}_{part}.pkl").read_bytes(), "<f4", n * 19, offset=154).reshape(n, 19)
        for part, n in (("train", n_train), ("test", 4320))
    ]
    assert telemetry.metrics == [f"metric_{k:02d}" for k in range(1, 20)]
    np.testing.assert_array_equal(telemetry.observations.to_numpy(), np.concatenate(parts).astype(float))
    test_start = telemetry.resources.loc[f"omi-{server}", "test_start"]
    times = telemetry.observations.index.get_level_values("timestamp")
    point_labels = np.frombuffer((folder / f"omi-{server}_test_label.pkl").read_bytes(), "<f8", 4320, offset=152)
    labelled = np.zeros(len(times), dtype=bool)
    for label in telemetry.labels.itertuples():
        labelled |= (times >= label.start) & (times <= label.end)
    assert times[n_train] == test_start and not labelled[:n_train].any()
    np.testing.assert_array_equal(labelled[n_train:], point_labels > 0)
    assert 100 * labelled[n_train:].mean() == pytest.approx(percent, abs=0.06) and len(telemetry.labels) == n_anomalies
    told = (MIRROR / "asd" / "interpretation_label" / f"omi-{server}.txt").read_text().split()
    assert [metrics.replace("metric_", "") for metrics in telemetry.labels["metrics"]] == [
        ",".join(f"{int(number):02d}" for number in line.split(":")[1].split(",")) for line in told
    ]
    if server == 1:
        daily = [autocorrelation(column, 288) for column in parts[0].T if column.std() > 0]
        assert 0.89 <= statistics.median(daily) <= 1


@needs_mirror
def test_asd_as_a_whole():
    telemetry = loaded("asd")
    assert len(telemetry.observations) == 5 * 12_960 + 11_611 and len(telemetry.labels) == 39
    ends = telemetry.observations.reset_index("timestamp").groupby(level=0)["timestamp"].max()
    assert len(set(ends)) == 1  # the test parts are put side by side


@needs_mirror
def test_smd():
    telemetry = loaded("smd:machine-2-1")
    assert len(telemetry.observations) == 23_693 + 23_694 and len(telemetry.metrics) == 38
    path = MIRROR / "smd" / "train" / "machine-2-1.pkl"
    train = np.frombuffer(path.read_bytes(), "<f4", 23_693 * 38, offset=154).reshape(-1, 38)
    np.testing.assert_array_equal(telemetry.observations.to_numpy()[:23_693], train)
    assert (train.std(axis=0) == 0).sum() == 5
    points = [int(line) for line in (MIRROR / "smd" / "test_label" / "machine-2-1.txt").read_text().split()]
    minutes = ((telemetry.labels["end"] - telemetry.labels["start"]).dt.total_seconds() / 60 + 1).sum()
    assert minutes == sum(points) and sum(points) / len(points) == pytest.approx(0.049, abs=0.001)
    assert len(telemetry.labels) == 13 and telemetry.labels["start"].is_monotonic_increasing
    rows = (telemetry.labels["start"] - telemetry.resources["test_start"].iloc[0]).dt.total_seconds() / 60
    guilty = dict(zip(rows.astype(int), telemetry.labels["metrics"], strict=True))
    assert guilty[20_340] == "metric_09,metric_10,metric_11,metric_13,metric_32"  # after 20891 in the text
    assert guilty[20_891] == "metric_10,metric_13"


@needs_mirror
def test_petshop_at_rest():
    telemetry = loaded("petshop:noissue")
    pd.testing.assert_frame_equal(loaded("petshop").observations, telemetry.observations)
    assert len(telemetry.resource_ids) == 39 and len(telemetry.observations) == 39 * 589 and telemetry.labels.empty
    site = telemetry.observations.loc["PetSite"]
    assert site.index[0] == pd.Timestamp("2023-09-05 14:00", tz="UTC") and site.notna().all(axis=None)
    assert site["requests"].mean() == pytest.approx(690, abs=2)
    with (MIRROR / "petshop" / "high_traffic" / "noissue" / "metrics.csv").open(newline="") as file:
        service, metric, statistic, _, *rows = csv.reader(file)
    wanted = {"latency_ms": ("latency", "Average", 1000), "latency_p95_ms": ("latency", "p95", 1000),
              "requests": ("requests", "Sum", 1), "availability_percent": ("availability", "Average", 1)}  # fmt: skip
    for name, (kind, how, factor) in wanted.items():
        (k,) = [
            k
            for k in range(1, 274)
            if (service[k], metric[k], statistic[k]) == ("petInfo_AWS::DynamoDB::Table", kind, how)
        ]
        expected = [factor * float(row[k]) for row in rows]
        np.testing.assert_allclose(telemetry.series(name, "petInfo_AWS::DynamoDB::Table"), expected, rtol=1e-12)


@needs_mirror
def test_petshop_issues():
    edges, alarms = set(), Counter()
    for k in range(8):
        telemetry = loaded(f"petshop:issue_{k}")
        assert len(telemetry.resource_ids) == 44 and len(telemetry.observations) == 44 * 5
        assert set(loaded("petshop").resource_ids) < set(telemetry.resource_ids)
        target = json.loads((MIRROR / "petshop" / "high_traffic" / "train" / f"issue_{k}" / "target.json").read_text())
        alarm, cause = telemetry.labels.itertuples()
        assert (alarm.kind, alarm.resource_id) == ("alarm", target["target"]["node"])
        assert (cause.kind, cause.resource_id) == ("root cause", target["root_cause"]["node"])
        late = datetime.fromtimestamp(target["target"]["timestamp"], UTC) - alarm.start
        assert timedelta(0) <= late < timedelta(minutes=5) and alarm.start == alarm.end == cause.start
        alarms[alarm.metrics] += 1
        edges |= {(row.Index, to) for row in telemetry.resources.itertuples() for to in row.calls.split(",") if to}
    assert alarms == {"latency_ms": 4, "availability_percent": 4}
    assert len(edges) == 47 and ("PetSite", "PetSearch_AWS::ECS::Fargate") in edges


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickles_are_not_run(tmp_path, protocol):
    trap = tmp_path / "trap"
    for content in (Hostile(trap), [np.zeros(3), Hostile(trap)], {"a": 1}, np.array([Hostile(trap)], dtype=object)):
        path = tmp_path / "array.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(SourceError, match="no pickle of one array"):
            pickled_array(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Hostile(trap))).close()
    assert trap.exists()  # so the trap would have worked


def test_a_pickle_that_calls_something_else_in_the_same_opcodes(tmp_path):
    content = pickle.dumps(np.arange(6, dtype="<f4"), protocol=3)
    path = tmp_path / "array.pkl"
    module = content.split(b"c", 2)[1].split(b"\n")[0]
    for wrong in (content.replace(module, b"posix"), content.replace(b"numpy\nndarray", b"numpy\nload   ")):
        path.write_bytes(wrong)
        with pytest.raises(SourceError, match="no pickle of one array"):
            pickled_array(path)
    path.write_bytes(content)
    assert pickled_array(path).tolist() == [0, 1, 2, 3, 4, 5]
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(SourceError):
            pickled_array(path)
    path.write_bytes(content.replace(b"K\x06", b"K\x07"))  # seven numbers announced, six there
    with pytest.raises(SourceError, match="do not fill"):
        pickled_array(path)


@given(
    arrays.arrays(
        dtype=st.sampled_from(["<f4", "<f8", "<i4", "<i8", "u1"]),
        shape=arrays.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=40),
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_pickled_arrays_come_back(tmp_path_factory, array, fortran):
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path_factory.getbasetemp() / "round-trip.pkl"
    path.write_bytes(pickle.dumps(array, protocol=3))
    back = pickled_array(path)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.integers(0, 1), min_size=3, max_size=40))
@settings(max_examples=60, deadline=None)
def test_segments_of_row_labels(tmp_path_factory, marks):
    """Whatever the text says, the labelled rows are the rows of the segments."""
    folder = tmp_path_factory.getbasetemp()
    parts = {"test_label": folder / "rows.txt", "interpretation_label": folder / "text.txt"}
    parts["test_label"].write_text("\n".join(map(str, marks)))
    told = [k for k, mark in enumerate(marks) if mark]
    parts["interpretation_label"].write_text("\n".join(f"{k}-{k}:{k % 9 + 1}" for k in reversed(told)))
    segments, unlike = readers_machines._segments(parts)
    assert [k for first, last, _ in segments for k in range(first, last + 1)] == told
    assert all(later[0] > earlier[1] + 1 for earlier, later in itertools.pairwise(segments))
    for first, last, metrics in segments:
        assert metrics == ",".join(sorted({f"metric_{k % 9 + 1:02d}" for k in range(first, last + 1)}))
    assert unlike == sum(last > first for first, last, _ in segments)  # one row a line: longer ones are cut
    parts["interpretation_label"].write_text("\n".join(f"{first}-{last + 1}:3" for first, last, _ in segments))
    assert readers_machines._segments(parts)[1] == 0


@given(st.integers(3, 20), st.integers(0, 20), st.sampled_from([60, 300]))
@settings(max_examples=40, deadline=None)
def test_a_lost_hour_is_spread_only_where_it_fits(n_lost, n_more, step):
    regular = pd.Series(pd.date_range("2014-03-09", periods=n_lost + 10, freq=f"{step}s"))
    told = regular.copy()
    told[5 : 5 + n_lost - 1] = regular[5 + n_lost - 1]  # all stamped like the last of them
    assert readers._spread_lost_hour(told, step)[0].equals(regular)
    longer = told.where(told.index < 5 + n_lost, told + pd.Timedelta(seconds=(n_more + 1) * step))
    back, moved = readers._spread_lost_hour(longer, step)
    assert moved == 0 and back.equals(longer)
    assert readers._spread_lost_hour(regular, step)[1] == 0


def test_gridded_leaves_holes_and_refuses_nothing():
    times = pd.to_datetime([0, 300, 1200], unit="s", utc=True).as_unit("ns")
    frame = pd.DataFrame({"resource_id": ["a", "a", "a"], "timestamp": times, "cpu_utilization": [1.0, 130.0, 104.0]})
    alone = pd.DataFrame(
        {"resource_id": ["b"], "timestamp": times[:1] + pd.Timedelta("140s"), "cpu_utilization": [7.0]}
    )
    telemetry = readers.gridded(pd.concat([frame, frame[:1], alone]), 300.0, "x", "x", [])
    assert telemetry.observations.loc["a", "cpu_utilization"].fillna(-1).tolist() == [1, -1, -1, -1, 104]
    assert telemetry.observations.loc["b"].index.tolist() == [times[0]]
    assert (
        repaired(telemetry, "over 110 percent")
        == repaired(telemetry, "above 100")
        == repaired(telemetry, "repeat")
        == 1
    )
    with pytest.raises(SourceError, match="no usable row"):
        readers.gridded(frame[:0], 300.0, "x", "x", [])


def test_tidy_can_leave_holes():
    lines = "timestamp,requests\n" + "".join(f"2026-01-01 00:{m:02d},{m}\n" for m in range(60) if m % 7)
    telemetry = tidy(pd.read_csv(io.StringIO(lines)), source="x", provenance="x", fill="none")
    values = telemetry.series("requests")
    assert [k for k, value in enumerate(values, start=1) if math.isnan(value)] == list(range(7, 60, 7))
    assert "quality_flag" not in telemetry.observations and repaired(telemetry, "left missing") == 8
