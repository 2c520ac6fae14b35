"""The column mapper: known small files of every layout, a served CloudWatch, upstream facts, laws of units and of counting."""

import json
import os
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry import load
from support.telemetry.generation.hybrid import hybrid
from support.telemetry.reading.mapping import detect_layout, map_telemetry
from support.telemetry.reading.payloads import payload_table
from support.telemetry.reading.units import KEYS, UNITS, headers
from support.telemetry.schema import LABEL_COLUMNS, METRICS, Telemetry

ROOT = Path(__file__).resolve().parents[2]
MIRROR = Path(os.environ.get("BOOK_DATA") or ROOT.parent / "shared" / "data")
needs_mirror = pytest.mark.skipif(not (MIRROR / "bitbrains-rnd").exists(), reason="no mirror of the traces")
N = 12
K = np.arange(N)
MINUTES = [f"2026-01-05 00:{5 * k:02d}:00" for k in range(N)]  # 5-minute steps
quick = settings(
    max_examples=15,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def rows_of(report, kind):
    return int(report.rows.loc[report.rows["kind"] == kind, "rows"].sum())


def decided(report, header):
    return report.columns.set_index("header").loc[header, "decided"]


def noted(report, text):
    return report.rows[report.rows["what"].str.contains(text, regex=False)]["rows"].tolist()


def balance(report):
    add, take = rows_of(report, "in") + rows_of(report, "added"), ("dropped", "combined", "aggregated")
    return add - sum(rows_of(report, kind) for kind in take) - rows_of(report, "out")


def written(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- layouts, each from a small file written by hand -----------------------------------------------------------------

ALIBABA_MACHINE = "\n".join(f"m_1932,{386640 + 10 * k},{40 + k},9{k % 10},,,43.04,33.08,{k}" for k in range(N))
ALIBABA_CONTAINER = "\n".join(f"c_1,m_2556,{10 * k},{20 + k},45,1.5,,0.2,0.3,0.4,{k}" for k in range(N))
BITBRAINS = (
    "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\tCPU usage [%];\t"
    "Memory capacity provisioned [KB];\tMemory usage [KB];\tDisk read throughput [KB/s];\tDisk write throughput [KB/s];\t"
    "Network received throughput [KB/s];\tNetwork transmitted throughput [KB/s]\n"
) + "\n".join(
    f"{1372629600 + 300 * k};\t2;\t5200.0;\t520.0;\t{10 + k}.5;\t8388608.0;\t2097152.0;\t0.0;\t125.0;\t1000.0;\t{k}.0"
    for k in range(N)
)
CLOUDPULSE = "timestamp,cpu_usage,memory_usage,network_io\n" + "\n".join(
    f"{t},{20 + k},{50 + k},{1000 * k}" for k, t in enumerate(MINUTES)
)
SCALEIQ = (
    "DateTime,avg_average_processing_duration_ms,avg_unprocessed_events_count,avg_processed_events_in_interval,"
    "avg_logged_events_in_interval,avg_queued_events_in_interval\n"
) + "\n".join(f"2026-01-05 00:{2 * k:02d}:00,250.5,{k},{100 + k},{110 + k},7" for k in range(N))
STANDARD_SCHEMA = (
    "timestamp,server_id,cpu_p95,mem_p95,disk_p95,net_in_p95,net_out_p95,source,quality_flag\n"
) + "\n".join(f"2026-01-{k + 1:02d},srv-1,{30 + k},60,70,12.5,25,synthetic,{k % 3}" for k in range(N))
KAGGLE = "Timestamp,Server_ID,CPU_Usage,Memory_Usage,Disk_Usage,Response_Time_ms\n" + "\n".join(
    f"{t},web,{0.05 * k:.2f},0.5,0.25,{100 + k}" for k, t in enumerate(MINUTES)
)
CLOUDWATCH = "timestamp,InstanceId,CPUUtilization,NetworkIn,DiskWriteBytes\n" + "\n".join(
    f"{t},i-0abc,{k}.25,{37_500_000 * k},37500000" for k, t in enumerate(MINUTES)
)
SMALL_FILES = {
    "alibaba_machine": (
        ALIBABA_MACHINE,
        "m_1932",
        {"cpu_utilization": 40.0 + K, "memory_utilization": 90.0 + K % 10, "disk_utilization": K},
    ),
    "alibaba_container": (ALIBABA_CONTAINER, "c_1", {"cpu_utilization": 20.0 + K, "disk_utilization": K}),
    "bitbrains": (
        BITBRAINS,
        "demand",
        {
            "cpu_utilization": 10.5 + K,
            "memory_assigned_gib": np.full(N, 8.0),
            "memory_utilization": np.full(N, 25.0),
            "disk_write_mbps": np.full(N, 125 * 1024 * 8 / 1e6),
            "network_in_mbps": np.full(N, 8.192),
            "network_out_mbps": K * 0.008192,
        },
    ),
    "cloudpulse": (CLOUDPULSE, "demand", {"cpu_utilization": 20.0 + K, "value": 1000.0 * K}),
    "scaleiq": (
        SCALEIQ,
        "demand",
        {"latency_ms": np.full(N, 250.5), "queue_length": K, "processed": 100 + K, "requests": 110 + K},
    ),
    "aws_capacity_forecaster": (
        STANDARD_SCHEMA,
        "srv-1",
        {"cpu_utilization": 30.0 + K, "network_in_mbps": np.full(N, 12.5), "quality_flag": K % 3},
    ),
    "kaggle": (
        KAGGLE,
        "web",
        {"cpu_utilization": 5.0 * K, "memory_utilization": np.full(N, 50.0), "latency_ms": 100.0 + K},
    ),
    "cloudwatch": (
        CLOUDWATCH,
        "i-0abc",
        {"cpu_utilization": K + 0.25, "network_in_mbps": 1.0 * K, "disk_write_mbps": np.ones(N)},
    ),
}


@pytest.mark.parametrize("layout", SMALL_FILES)
def test_every_layout_from_a_small_file(tmp_path, layout):
    text, resource, expected = SMALL_FILES[layout]
    telemetry, report = map_telemetry(written(tmp_path, text))
    assert report.layout == layout and telemetry.resource_ids == [resource]
    for metric, values in expected.items():
        np.testing.assert_allclose(telemetry.series(metric), values, rtol=1e-12, atol=1e-12, err_msg=metric)
    assert rows_of(report, "in") == rows_of(report, "out") == N and balance(report) == 0
    assert rows_of(report, "dropped") == rows_of(report, "combined") == rows_of(report, "imputed") == 0
    assert (report.columns["decided"] != "").all()


@pytest.mark.parametrize("layout", sorted(set(SMALL_FILES) - {"alibaba_machine", "alibaba_container"}))
def test_order_case_and_blanks_of_headers_do_not_matter(tmp_path, layout):
    text, _, expected = SMALL_FILES[layout]
    table = pd.read_csv(written(tmp_path, text.replace(";\t", ";")), sep=";" if layout == "bitbrains" else ",")
    shuffled = table[list(reversed(table.columns))].rename(columns=lambda c: f" {c.upper()} ")
    telemetry, report = map_telemetry(shuffled)
    assert report.layout == layout
    for metric, values in expected.items():
        np.testing.assert_allclose(telemetry.series(metric), values, rtol=1e-12, atol=1e-12)


def test_the_table_of_headers_is_sound():
    table = headers()
    assert set(table["metric"]) <= {"", *KEYS, *METRICS}
    assert not table.duplicated(["layout", "key"]).any() and (table["source"] != "").all()
    for row in table[table["metric"].isin(list(METRICS))].itertuples():
        canonical = METRICS[row.metric][0]
        assert set(row.unit.split("|")) <= {"", canonical, *UNITS.get(canonical, {})}, row
        assert row.unit or canonical not in UNITS, row
    assert set(table.loc[table["per"] != "", "per"]) <= set(table["header"])


def test_alibaba_sentinels_are_missing_and_counted(tmp_path):
    lines = ALIBABA_MACHINE.splitlines()
    lines[3], lines[7] = lines[3].replace(",43,", ",-1,"), lines[7].replace(",47,", ",101,")
    telemetry, report = map_telemetry(written(tmp_path, "\n".join(lines)), fill="none", start="2018-01-08")
    cpu = telemetry.series("cpu_utilization")
    assert np.flatnonzero(cpu.isna()).tolist() == [3, 7] and cpu.max() == 51.0
    assert cpu.index[0] == pd.Timestamp("2018-01-08", tz="UTC") + pd.Timedelta(seconds=386640)
    assert noted(report, "-1 or 101 (not measured)") == [2]
    assert noted(report, "second 0 taken as 2018-01-08") == [N]
    filled, report = map_telemetry(written(tmp_path, "\n".join(lines)))
    assert filled.series("cpu_utilization").iloc[[3, 7]].tolist() == [43.0, 47.0] and rows_of(report, "imputed") == 2
    assert filled.series("quality_flag").sum() == 2


def test_unmapped_columns_are_named_and_constant_ones_describe_the_resource(tmp_path):
    telemetry, report = map_telemetry(written(tmp_path, BITBRAINS), resource="vm-33")
    assert decided(report, "CPU usage [MHZ]").startswith("not mapped: the same as the percentage")
    assert telemetry.resources.loc["vm-33", "CPU cores"] == 2
    assert "presumed" in decided(report, "Network received throughput [KB/s]")
    assert noted(telemetry_report_of(telemetry), "KiB/s to Mbit/s (GWA-T-12; KB presumed") == [N] * 4


def telemetry_report_of(telemetry):
    """The repairs of a telemetry in the shape of a report: what was guessed travels with the data, too."""
    rows = [("noted", repair.what, repair.count) for repair in telemetry.repairs]

    class Rows:
        pass

    Rows.rows = pd.DataFrame(rows, columns=["kind", "what", "rows"])
    return Rows


# --- upstream facts -------------------------------------------------------------------------------------------------


@needs_mirror
def test_a_real_bitbrains_machine():
    telemetry, report = map_telemetry(str(MIRROR / "bitbrains-rnd" / "2013-7" / "33.csv"), resource="33")
    measured = telemetry.series("cpu_utilization")[telemetry.series("quality_flag") == 0]
    assert len(measured) == rows_of(report, "in") == 8262  # the facts of data/README.md, section 3
    assert (round(measured.mean(), 1), round(measured.quantile(0.99)), round(measured.max())) == (9.5, 35, 103)
    assert rows_of(report, "added") == rows_of(report, "imputed") == len(telemetry.observations) - 8262
    raw = pd.read_csv(MIRROR / "bitbrains-rnd" / "2013-7" / "33.csv", sep=";\t", engine="python")
    sent = telemetry.series("network_out_mbps")[telemetry.series("quality_flag") == 0]
    assert sent.sum() == pytest.approx(raw["Network transmitted throughput [KB/s]"].sum() * 1024 * 8 / 1e6)


@needs_mirror
def test_a_real_cloudwatch_file_agrees_with_its_loader(monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(MIRROR))
    name = "realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn"
    path = str(MIRROR / "nab" / f"{name}.csv")
    loaded = load(f"nab:{name}")
    mapped, report = map_telemetry(
        path, columns={"value": "network_in_mbps"}, units={"value": "bytes/interval"}, duplicates="mean"
    )
    assert report.layout == "cloudwatch" and "unit by the caller" in decided(report, "value")
    np.testing.assert_allclose(mapped.series("network_in_mbps"), loaded.series("network_in_mbps"), rtol=1e-12)


# --- CloudWatch JSON ------------------------------------------------------------------------------------------------


def as_cli(answer):
    """A boto3 answer as the AWS CLI prints it."""
    body = {key: value for key, value in answer.items() if key != "ResponseMetadata"}
    return json.loads(json.dumps(body, default=lambda value: value.isoformat()))


@pytest.fixture(scope="module")
def cloudwatch_answers():
    """Answers of a CloudWatch endpoint that was given known values: CPU of two machines, bytes in of one."""
    begin = pd.Timestamp("2026-01-05T00:00:00Z")
    end = begin + pd.Timedelta(minutes=5 * N)
    common = {"StartTime": begin.to_pydatetime(), "EndTime": end.to_pydatetime()}
    with mock_aws():
        client = boto3.client("cloudwatch", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        dimension = {name: [{"Name": "InstanceId", "Value": name}] for name in ("i-0a", "i-0b")}
        for k in range(N):
            stamp = (begin + pd.Timedelta(minutes=5 * k)).to_pydatetime()
            data = [("CPUUtilization", "i-0a", 10.0 + k, "Percent"), ("CPUUtilization", "i-0b", 50.0 + k, "Percent")]
            data += [("NetworkIn", "i-0a", 37_500_000.0 * k, "Bytes")]
            client.put_metric_data(
                Namespace="AWS/EC2",
                MetricData=[
                    {"MetricName": m, "Dimensions": dimension[i], "Timestamp": stamp, "Value": v, "Unit": u}
                    for m, i, v, u in data
                ],
            )
        queries = [
            {
                "Id": f"q{n}",
                "Label": f"{i} {m}",
                "MetricStat": {
                    "Metric": {"Namespace": "AWS/EC2", "MetricName": m, "Dimensions": dimension[i]},
                    "Period": 300,
                    "Stat": stat,
                },
            }
            for n, (m, i, stat) in enumerate(
                [
                    ("CPUUtilization", "i-0a", "Average"),
                    ("CPUUtilization", "i-0b", "Average"),
                    ("NetworkIn", "i-0a", "Sum"),
                ]
            )
        ]
        data = client.get_metric_data(MetricDataQueries=queries, ScanBy="TimestampDescending", **common)
        one = {"Namespace": "AWS/EC2", "Dimensions": dimension["i-0a"], "Period": 300, **common}
        sums = client.get_metric_statistics(MetricName="NetworkIn", Statistics=["Sum", "Average"], **one)
        levels = client.get_metric_statistics(MetricName="CPUUtilization", Statistics=["Average"], **one)
        means = client.get_metric_statistics(MetricName="NetworkIn", Statistics=["Average"], **one)
    return {"data": as_cli(data), "sums": as_cli(sums), "levels": as_cli(levels), "means": as_cli(means)}


def test_get_metric_data(tmp_path, cloudwatch_answers):
    path = written(tmp_path, json.dumps(cloudwatch_answers["data"]), "metrics.json")
    telemetry, report = map_telemetry(path)
    assert (
        report.layout == "cloudwatch" and telemetry.resource_ids == ["i-0a", "i-0b"] and telemetry.step_seconds == 300
    )
    np.testing.assert_allclose(telemetry.series("cpu_utilization", "i-0a"), 10.0 + K)
    np.testing.assert_allclose(telemetry.series("cpu_utilization", "i-0b"), 50.0 + K)
    np.testing.assert_allclose(telemetry.series("network_in_mbps", "i-0a"), K)  # 37.5 MB in 300 s are 1 Mbit/s
    assert telemetry.series("cpu_utilization", "i-0a").index[0] == pd.Timestamp("2026-01-05", tz="UTC")
    assert "Sum presumed" in decided(report, "NetworkIn") and balance(report) == 0


def test_get_metric_statistics(cloudwatch_answers):
    both = [cloudwatch_answers["sums"], cloudwatch_answers["levels"]]
    telemetry, report = map_telemetry(both, resource="i-0a", source="statistics")
    np.testing.assert_allclose(telemetry.series("network_in_mbps"), K)
    np.testing.assert_allclose(telemetry.series("cpu_utilization"), 10.0 + K)
    assert noted(report, "CloudWatch statistic of 'NetworkIn': Sum") == [N]
    with pytest.raises(SchemaError, match="'NetworkIn' has .'Average'.; its Sum is needed. Ask with --statistics"):
        map_telemetry(cloudwatch_answers["means"])


def test_cloudwatch_answers_that_cannot_be_used(cloudwatch_answers):
    data = cloudwatch_answers["data"]["MetricDataResults"]
    with pytest.raises(SourceError, match="answers InternalError for 'i-0a CPUUtilization'"):
        map_telemetry({"MetricDataResults": [{**data[0], "StatusCode": "InternalError"}]})
    twice = [{**series, "Label": "CPUUtilization"} for series in data[:2]]
    with pytest.raises(SchemaError, match="two values of 'CPUUtilization'.*Label such as"):
        map_telemetry({"MetricDataResults": twice})
    with pytest.raises(SourceError, match="no data points"):
        map_telemetry({"MetricDataResults": [{"Id": "q", "Label": "CPUUtilization", "Timestamps": [], "Values": []}]})
    with pytest.raises(SourceError, match="no data points of 'CPUUtilization'"):
        map_telemetry({"Label": "CPUUtilization", "Datapoints": []})
    _, report = map_telemetry({"MetricDataResults": [{**data[0], "StatusCode": "PartialData"}]})
    assert noted(report, "marked PartialData") == [N]
    _, report = map_telemetry({"MetricDataResults": data[:1], "NextToken": "x", "Messages": [{"Code": "c"}]})
    assert noted(report, "NextToken") == noted(report, "messages of CloudWatch") == [1]


def test_the_stated_unit_goes_before_the_layout_and_the_caller_before_both(cloudwatch_answers):
    answer = json.loads(json.dumps(cloudwatch_answers["sums"]))
    for point in answer["Datapoints"]:
        point["Unit"], point["Average"] = "Bytes/Second", 125_000.0
    telemetry, report = map_telemetry(answer)
    np.testing.assert_allclose(telemetry.series("network_in_mbps"), np.ones(N))
    assert decided(report, "NetworkIn") == "by layout cloudwatch: unit stated by the source"
    telemetry, report = map_telemetry(answer, units={"NetworkIn": "bit/s"})
    np.testing.assert_allclose(telemetry.series("network_in_mbps"), np.full(N, 0.125))
    assert decided(report, "NetworkIn") == "by layout cloudwatch: unit by the caller"


# --- Prometheus JSON -------------------------------------------------------------------------------------------------


def matrix(*series):
    result = [
        {"metric": labels, "values": [[1767571200 + 60 * k, v] for k, v in enumerate(values)]}
        for labels, values in series
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def test_prometheus_json(tmp_path):
    name, job = "instance:node_cpu_utilisation:rate5m", {"job": "node"}
    answer = matrix(
        ({"__name__": name, "instance": "a:9100", **job}, [str(k / 100) for k in range(N)]),
        ({"__name__": name, "instance": "b:9100", **job}, ["0.5"] * 5 + ["NaN"] + ["0.5"] * 6),
        ({"__name__": "http_requests_per_second", "instance": "a:9100", **job}, ["7"] * N),
    )
    telemetry, report = map_telemetry(written(tmp_path, json.dumps(answer), "range.json"), fill="none")
    assert telemetry.resource_ids == ["a:9100", "b:9100"] and telemetry.step_seconds == 60.0
    np.testing.assert_allclose(telemetry.series("cpu_utilization", "a:9100"), K, atol=1e-12)
    b = telemetry.series("cpu_utilization", "b:9100")
    assert np.flatnonzero(b.isna()).tolist() == [5] and b.max() == 50.0
    assert telemetry.series("throughput_rps", "a:9100").eq(7).all()
    assert rows_of(report, "in") == 2 * N and rows_of(report, "dropped") == 1 and rows_of(report, "added") == 1
    assert balance(report) == 0


def test_an_expression_without_a_name_is_a_value_until_the_caller_says_more():
    answer = matrix(({}, ["0.5"] * N))
    telemetry, _ = map_telemetry(answer)
    assert telemetry.series("value").eq(0.5).all()
    named, _ = map_telemetry(answer, columns={"value": "cpu_utilization"}, units={"value": "fraction"})
    assert named.series("cpu_utilization").eq(50).all()


def test_labels_that_tell_series_apart_make_the_resource():
    answer = matrix(
        ({"pod": "x", "zone": "1", "job": "j"}, ["1"] * N), ({"pod": "x", "zone": "2", "job": "j"}, ["2"] * N)
    )
    assert map_telemetry(answer)[0].resource_ids == ["1", "2"]  # zone alone tells
    answer["data"]["result"] += matrix(({"pod": "y", "zone": "2"}, ["3"] * N))["data"]["result"]
    assert map_telemetry(answer)[0].resource_ids == ["job=j,pod=x,zone=1", "job=j,pod=x,zone=2", "pod=y,zone=2"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"status": "error", "errorType": "bad_data", "error": "parse error"}, "answers bad_data: parse error"),
        ({"status": "success", "data": {"resultType": "vector", "result": []}}, "is a vector, not a matrix"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "gave no data points"),
        ({"hello": 1}, "is none of these: get-metric-data"),
        ([1, 2], "is no answer of CloudWatch or Prometheus"),
    ],
)
def test_answers_that_hold_no_series(payload, message):
    with pytest.raises(SourceError, match=message):
        payload_table(payload)


# --- units -----------------------------------------------------------------------------------------------------------

CLOSED_FORM = {  # foreign value of 1 canonical unit at a step of 300 s, by arithmetic of its own
    ("cpu_utilization", "fraction"): 1 / 100,
    ("network_in_mbps", "kbit/s"): 1000.0,
    ("network_in_mbps", "bit/s"): 1_000_000.0,
    ("network_in_mbps", "MB/s"): 1 / 8,
    ("network_in_mbps", "kB/s"): 125.0,
    ("network_in_mbps", "KiB/s"): 125_000 / 1024,
    ("network_in_mbps", "bytes/s"): 125_000.0,
    ("network_in_mbps", "bytes/interval"): 125_000.0 * 300,
    ("latency_ms", "seconds"): 0.001,
    ("latency_ms", "microseconds"): 1000.0,
    ("memory_assigned_gib", "MiB"): 1024.0,
    ("memory_assigned_gib", "KiB"): 1024.0**2,
    ("memory_assigned_gib", "bytes"): 1024.0**3,
    ("requests", "requests/s"): 1 / 300,
}


def test_every_unit_with_a_factor_has_a_closed_form_here():
    for canonical, known in UNITS.items():
        for unit, (factor, power) in known.items():
            if (factor, power) != (1, 0):
                assert any(METRICS[m][0] == canonical and u == unit for m, u in CLOSED_FORM), (canonical, unit)


@quick
@given(
    case=st.sampled_from(sorted(CLOSED_FORM)),
    values=st.lists(st.floats(0, 100, allow_subnormal=False), min_size=N, max_size=N),
)
def test_units_there_and_back(case, values):
    metric, unit = case
    table = pd.DataFrame({"time": MINUTES, "x": np.array(values) * CLOSED_FORM[case]})
    telemetry, report = map_telemetry(table, layout="kaggle", columns={"x": metric}, units={"x": unit})
    np.testing.assert_allclose(telemetry.series(metric), values, rtol=1e-9, atol=1e-12)
    assert noted(report, f"'x' converted from {unit} to") == [N]


def test_rates_that_meet_in_one_interval_are_averaged_not_added():
    """A steady 10 requests a second, polled every minute, one poll 40 s late: 600 a minute, whatever the jitter."""
    times = pd.date_range("2026-01-05", periods=30, freq="60s").to_series(index=range(30))
    times[12] += pd.Timedelta(seconds=40)
    telemetry, report = map_telemetry(
        pd.DataFrame({"timestamp": times, "requests": 10.0}), layout="canonical", units={"requests": "requests/s"}
    )
    assert noted(report, "fell into the same interval") == [1]
    assert telemetry.demand().tolist() == [600.0] * 30


@pytest.mark.parametrize(("peak", "factor"), [(0.05, 100), (0.4, 100), (1.0, 100), (1.6, 1), (99.0, 1), (0.0, 1)])
def test_a_clear_percentage_is_guessed_and_the_guess_is_reported(peak, factor):
    table = pd.DataFrame({"time": MINUTES, "cpu": np.linspace(0, peak, N)})
    telemetry, report = map_telemetry(table)
    np.testing.assert_allclose(telemetry.series("cpu_utilization"), np.linspace(0, peak, N) * factor)
    assert "unit guessed" in decided(report, "cpu") and noted(report, "unit of 'cpu' not stated") == [N]
    assert any("unit of 'cpu' not stated" in repair.what for repair in telemetry.repairs)


@pytest.mark.parametrize("peak", [0.01, 0.049, 1.01, 1.5, 111.0, 8192.0])
def test_an_ambiguous_percentage_is_refused_with_the_mend(peak):
    table = pd.DataFrame({"time": MINUTES, "cpu": np.linspace(0, peak, N)})
    with pytest.raises(SchemaError, match=r"percent or fraction. Say so with units=.'cpu': 'percent'."):
        map_telemetry(table)
    if peak < 100:
        telemetry, report = map_telemetry(table, units={"cpu": "percent"})
        assert telemetry.series("cpu_utilization").max() == peak and "guess" not in decided(report, "cpu")
    telemetry, _ = map_telemetry(table.assign(memory=50.0), columns={"cpu": "ignore"})
    assert telemetry.metrics == ["memory_utilization"]


def test_a_fraction_beside_a_percentage_is_ambiguous():
    table = pd.DataFrame({"time": MINUTES, "cpu": np.linspace(0, 0.9, N), "memory": 60.0})
    with pytest.raises(SchemaError, match="the unit of 'cpu' is not stated, and values up to 0.9"):
        map_telemetry(table)


def test_network_without_a_unit_is_refused_and_latency_only_guessed_when_clear():
    table = pd.DataFrame({"time": MINUTES, "network_in": 1e6 + K})
    with pytest.raises(SchemaError, match=r"Mbit/s or bytes/s. Say so with units=.'network_in': 'Mbit/s'."):
        map_telemetry(table)
    telemetry, _ = map_telemetry(table, units={"network_in": "bytes/s"})
    np.testing.assert_allclose(telemetry.series("network_in_mbps"), 8 + K * 8e-6)
    slow = pd.DataFrame({"time": MINUTES, "response_time": 120.0 + K})
    assert map_telemetry(slow)[0].series("latency_ms").iloc[0] == 120.0
    with pytest.raises(SchemaError, match="milliseconds or seconds"):
        map_telemetry(slow.assign(response_time=0.5))
    with pytest.raises(
        SchemaError, match="unit 'furlongs' of 'response_time' is not understood. Use one of milliseconds"
    ):
        map_telemetry(slow, units={"response_time": "furlongs"})


# --- laws ------------------------------------------------------------------------------------------------------------

NAMES = [m for m in METRICS if m != "quality_flag"]


@st.composite
def canonical_tables(draw):
    metrics = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).filter(measured))
    step = draw(st.sampled_from([60, 300, 3600]))
    size, n_resources = draw(st.integers(N, 20)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    times = pd.date_range("2026-01-05", periods=size, freq=f"{step}s", tz="UTC")
    index = pd.MultiIndex.from_product(
        [[f"r{k}" for k in range(n_resources)], times], names=["resource_id", "timestamp"]
    )
    frame = pd.DataFrame(index=index)
    for metric in metrics:
        frame[metric] = rng.uniform(max(METRICS[metric][1], -1e6), min(METRICS[metric][2], 1e6), len(index))
    for metric in metrics[1:]:
        frame.loc[rng.uniform(size=len(index)) < 0.1, metric] = np.nan
    return frame, float(step), bool(rng.integers(2))


def measured(metrics):
    """One column at least must be a measurement, and a full one, so that every row counts."""
    return metrics[0] not in ("efficiency_score", "is_idle", "is_overprovisioned", "waste_percentage")


@quick
@given(canonical_tables())
def test_a_canonical_table_comes_out_unchanged(case):
    frame, step, shuffled = case
    table = frame.reset_index()
    table = table.sample(frac=1, random_state=1) if shuffled else table
    telemetry, report = map_telemetry(table, layout="canonical", fill="none")
    pd.testing.assert_frame_equal(telemetry.observations[list(frame)], frame, check_freq=False, check_exact=True)
    assert telemetry.step_seconds == step and report.rows_kept_frac == 1.0
    assert rows_of(report, "in") == rows_of(report, "out") == len(frame) and balance(report) == 0


def test_a_canonical_table_is_recognised_unless_its_percentages_may_be_fractions():
    table = pd.DataFrame({"timestamp": MINUTES, "resource_id": "a", "cpu_utilization": 40.0 + K, "requests": K})
    assert detect_layout(table) == "canonical"
    low = table.assign(cpu_utilization=K / 20)
    with pytest.raises(SchemaError, match="cpu_utilization is never above 1. Say layout='canonical' if it is percent"):
        map_telemetry(low)
    assert map_telemetry(low, layout="canonical")[0].series("cpu_utilization").max() == 0.55
    fractions, _ = map_telemetry(low, layout="canonical", units={"cpu_utilization": "fraction"})
    np.testing.assert_allclose(fractions.series("cpu_utilization"), 5.0 * K)


@quick
@given(seed=st.integers(0, 2**32 - 1), repeat=st.integers(0, 3), steps=st.sampled_from([None, 600.0]))
def test_the_report_accounts_for_every_row(seed, repeat, steps):
    rng = np.random.default_rng(seed)
    slots = np.delete(np.arange(26), rng.choice(np.arange(1, 25), rng.integers(0, 4), replace=False))
    slots = np.sort(np.concatenate([slots, rng.choice(slots, rng.integers(0, 5))]))
    times = pd.Timestamp("2026-01-05") + pd.to_timedelta(300 * slots, unit="s")
    table = pd.DataFrame({"time": times, "cpu_percent": 10.0 + np.arange(len(slots)), "host": "a"})
    table.loc[rng.choice(len(table), rng.integers(0, 3), replace=False), "cpu_percent"] = np.nan
    table = pd.concat([table, table.iloc[:repeat]], ignore_index=True)
    telemetry, report = map_telemetry(table, duplicates="mean", fill="none", step_seconds=steps)
    kept = table.dropna(subset="cpu_percent")["time"]  # what follows counts naively, by sets of times
    grid = round((kept.max() - kept.min()).total_seconds() / 300) + 1
    assert rows_of(report, "in") == len(table) and rows_of(report, "dropped") == len(table) - len(kept)
    assert rows_of(report, "combined") == len(kept) - len(set(kept)) and rows_of(report, "added") == grid - len(
        set(kept)
    )
    assert rows_of(report, "out") == len(telemetry.observations) and balance(report) == 0
    assert rows_of(report, "aggregated") == (grid - len(telemetry.observations) if steps else 0)


def test_rows_in_one_interval_are_combined_and_counted():
    seconds = [300 * k for k in range(30)] + [302, 603]
    times = pd.Timestamp("2026-01-05") + pd.to_timedelta(sorted(seconds), unit="s")
    _, report = map_telemetry(pd.DataFrame({"time": times, "cpu_percent": 20.0 + np.arange(32)}))
    assert rows_of(report, "combined") == 2 and rows_of(report, "out") == 30 and balance(report) == 0


def test_compatibility_marks():
    frame = pd.DataFrame(
        {"time": MINUTES * 2, "host": ["a"] * N + ["b"] * N, "cpu_percent": 5.0, "memory_percent": 6.0}
    )
    _, report = map_telemetry(frame)
    assert (report.standard_found_frac, report.rows_kept_frac, report.compatible) == (0.4, 1.0, False)
    _, report = map_telemetry(frame.assign(disk_percent=7.0))
    assert report.compatible
    holes = frame.assign(disk_percent=7.0)
    holes.loc[[3, 7], ["cpu_percent", "memory_percent", "disk_percent"]] = np.nan
    _, report = map_telemetry(holes)
    assert not report.compatible and report.rows_kept_frac == pytest.approx(22 / 24)


# --- bad inputs ------------------------------------------------------------------------------------------------------

GOOD = pd.DataFrame({"time": MINUTES, "cpu_percent": 10.0 + K})


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (GOOD.drop(columns="time"), {}, SchemaError, "lacks a time column"),
        (
            GOOD.drop(columns="cpu_percent"),
            {},
            SchemaError,
            "lacks a metric. Known layouts: canonical, alibaba_machine",
        ),
        (
            GOOD.rename(columns={"time": "when"}),
            {"layout": "kaggle"},
            SchemaError,
            "no time column known to layout kaggle",
        ),
        (
            GOOD.rename(columns={"cpu_percent": "x"}),
            {"layout": "kaggle"},
            SchemaError,
            "no metric column known to layout",
        ),
        (GOOD, {"layout": "oracle"}, SchemaError, "no layout 'oracle'. Known layouts: alibaba_machine"),
        (
            GOOD,
            {"columns": {"ram": "memory_utilization"}},
            SchemaError,
            "no column 'ram'; there are .'time', 'cpu_percent'.",
        ),
        (
            GOOD,
            {"columns": {"cpu_percent": "heat"}},
            SchemaError,
            "maps 'cpu_percent' to 'heat', which is no canonical metric",
        ),
        (GOOD, {"units": {"ram": "GiB"}}, SchemaError, "units names 'ram', which is no column that becomes a metric"),
        (
            GOOD.assign(cpu_percent=-K),
            {},
            SchemaError,
            r"row 3 of 'cpu_percent' is negative \(-1\); cpu_utilization cannot",
        ),
        (GOOD.assign(cpu_percent=["45 %"] * N), {}, SchemaError, "row 2 of 'cpu_percent' is no number: '45 %'"),
        (GOOD.assign(cpu_percent=300.0), {}, SchemaError, "cpu_utilization in 0..110 percent' in 12 rows"),
        (GOOD.assign(time="yesterday?"), {}, SchemaError, "row 2 of 'time' is no timestamp: 'yesterday.'"),
        (GOOD.head(0), {}, SourceError, "has no rows"),
        (GOOD.head(5), {}, TooShortError, "5 usable rows; at least 10"),
        (
            GOOD.assign(b=1.0).set_axis(["time", "cpu_percent", "cpu_percent"], axis=1),
            {},
            SchemaError,
            "called 'cpu_percent'",
        ),
        (GOOD.assign(cpu_percent=np.nan), {}, SchemaError, "no metric column known"),
        (
            GOOD.assign(b=1.0),
            {"columns": {"cpu_percent": "cpu_utilization", "b": "cpu_utilization"}},
            SchemaError,
            "maps two headers to cpu_utilization",
        ),
    ],
)
def test_bad_tables_are_refused_in_a_sentence(table, options, error, message):
    with pytest.raises(error, match=message) as caught:
        map_telemetry(table, source="servers", **options)
    assert str(caught.value).startswith("servers: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "timestamp,cpu\n", "has a header but no rows"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "", "is no JSON"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, name, content, message):
    with pytest.raises(SourceError, match=message):
        map_telemetry(written(tmp_path, content, name))
    with pytest.raises(SourceError, match="there is no such file"):
        map_telemetry(str(tmp_path / f"absent-{name}"))


def test_timezone_and_step():
    local = pd.date_range("2026-01-05", periods=24, freq="30min").strftime("%Y-%m-%d %H:%M")
    table = pd.DataFrame({"time": local, "requests": np.arange(24)})
    telemetry, report = map_telemetry(table, timezone="Asia/Tokyo", step_seconds=3600.0)
    assert telemetry.series("requests").index[0] == pd.Timestamp("2026-01-04 15:00", tz="UTC")
    assert telemetry.series("requests").tolist() == [4 * k + 1 for k in range(12)]
    assert rows_of(report, "aggregated") == 12 and balance(report) == 0


# --- hybrid ----------------------------------------------------------------------------------------------------------


def fleet(n, source, *, metrics=("cpu_utilization", "memory_utilization"), step=300, synthetic=False, labels=False):
    ids = [f"m{k:02d}" for k in range(n)]
    times = pd.date_range("2026-01-05", periods=N, freq=f"{step}s", tz="UTC")
    index = pd.MultiIndex.from_product([ids, times], names=["resource_id", "timestamp"])
    values = {m: np.arange(n * N, dtype=float) % 100 for m in metrics}
    table = pd.DataFrame({"region": "here"}, index=pd.Index(ids, name="resource_id"))
    marks = pd.DataFrame([(i, times[0], times[2], "spike", metrics[0]) for i in ids], columns=list(LABEL_COLUMNS))
    extra = {"labels": marks} if labels else {}
    return Telemetry(pd.DataFrame(values, index=index), float(step), source, "made here", synthetic, table, **extra)


@pytest.mark.parametrize(
    ("n_real", "n_synthetic", "frac", "expected"),
    [(5, 20, 0.2, (5, 20)), (3, 100, 0.2, (3, 12)), (50, 8, 0.2, (2, 8)), (4, 4, 0.5, (4, 4))],
)
def test_hybrid_takes_the_stated_share_and_leaves_values_alone(n_real, n_synthetic, frac, expected):
    real, synthetic = fleet(n_real, "trace"), fleet(n_synthetic, "model", synthetic=True, labels=True)
    mixed = hybrid(real, synthetic, real_frac=frac, rng=np.random.default_rng(3))
    kinds = pd.Series([i.split("/")[0] for i in mixed.resource_ids]).value_counts()
    assert (kinds["real"], kinds["synthetic"]) == expected and mixed.synthetic
    for name in mixed.resource_ids:
        kind, _, old = name.partition("/")
        origin = real if kind == "real" else synthetic
        pd.testing.assert_series_equal(mixed.series("cpu_utilization", name), origin.series("cpu_utilization", old))
        assert mixed.resources.loc[name, "provenance"] == f"{kind}: {origin.source}"
    assert set(mixed.labels["resource_id"]) == {i for i in mixed.resource_ids if i.startswith("synthetic/")}
    again = hybrid(real, synthetic, real_frac=frac, rng=np.random.default_rng(3))
    pd.testing.assert_frame_equal(mixed.observations, again.observations)


def test_hybrid_keeps_common_metrics_only_and_says_so():
    real, synthetic = fleet(5, "trace", metrics=("cpu_utilization", "requests")), fleet(20, "model", synthetic=True)
    mixed = hybrid(real, synthetic, rng=np.random.default_rng(1))
    assert mixed.metrics == ["cpu_utilization"]
    assert [r.count for r in mixed.repairs if "only one side" in r.what] == [2]


@pytest.mark.parametrize(
    ("real", "synthetic", "frac", "message"),
    [
        (fleet(5, "t"), fleet(20, "m"), 1.0, "real_frac is 1; give a share between 0 and 1"),
        (fleet(5, "t", step=60), fleet(20, "m"), 0.2, "steps of .* Resample one of them"),
        (fleet(5, "t", metrics=("requests",)), fleet(20, "m"), 0.2, "share no metric"),
        (fleet(5, "t"), fleet(3, "m"), 0.2, "do not make a share of 0.2. Give more resources"),
    ],
)
def test_hybrid_refuses_what_cannot_be_mixed(real, synthetic, frac, message):
    with pytest.raises(SchemaError, match=message):
        hybrid(real, synthetic, real_frac=frac, rng=np.random.default_rng(1))


def test_rates_are_named_as_in_the_table_and_stay_what_they_are():
    """Requests and processed requests in 1/s, over steps of 300 s: each its own count, noted under its own header."""
    table = pd.DataFrame({"timestamp": MINUTES, "Incoming": K + 1.0, "Done": K + 0.5})
    telemetry, report = map_telemetry(
        table, layout="kaggle", columns={"Incoming": "requests", "Done": "processed"},
        units={"Incoming": "requests/s", "Done": "requests/s"},
    )  # fmt: skip
    assert telemetry.series("requests").tolist() == (300 * (K + 1.0)).tolist()
    assert telemetry.series("processed").tolist() == (300 * (K + 0.5)).tolist()
    assert noted(report, "'Incoming' taken as requests/s") == [N]
    assert noted(report, "rps") == []
    alone, _ = map_telemetry(table, layout="kaggle", columns={"Done": "processed"}, units={"Done": "requests/s"})
    assert alone.metrics == ["processed"]
