"""Answers of monitoring APIs to tables: CloudWatch's metric JSON and Prometheus' range queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SchemaError, SourceError
from support.telemetry.reading.grid import count_repair
from support.telemetry.reading.units import UNITS, header_key, headers
from support.telemetry.schema import METRICS, Repair

__all__ = ["Payload", "payload_table"]

Payload = tuple[
    str, pd.DataFrame, dict[str, str]
]  # layout, wide table (attrs["repairs"]), units that the answer states
CLOUDWATCH_UNITS = {  # StandardUnit of the CloudWatch API -> ours; "None" and others say nothing that could be used
    "Percent": "percent",
    "Seconds": "seconds",
    "Milliseconds": "milliseconds",
    "Microseconds": "microseconds",
    "Bytes": "bytes/interval",
    "Bytes/Second": "bytes/s",
    "Bits/Second": "bit/s",
    "Count": "count",
    "Count/Second": "requests/s",
}
STATISTICS = ("Average", "Sum", "Maximum", "Minimum")  # in the order in which a level is read
ADDITIVE = ("count", "bytes/interval")  # units of which only the sum over the period means something


def payload_table(payload: Any, *, source: str = "payload") -> Payload:
    """Layout, wide table (timestamp, resource_id, one column per metric name) and stated units of a parsed JSON answer.

    payload: what `aws cloudwatch get-metric-data` or `get-metric-statistics` prints, or the answer of Prometheus'
    `/api/v1/query_range`, or a list of such answers. Raises SourceError for an error answer or another kind of JSON,
    SchemaError for series that cannot be told apart or lack the statistic that is needed.
    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html,
    https://prometheus.io/docs/prometheus/latest/querying/api/

    Example:
        >>> answer = {"status": "success", "data": {"resultType": "matrix", "result": [
        ...     {"metric": {"__name__": "up", "instance": "a"}, "values": [[1767225600, "1"], [1767225660, "0"]]}]}}
        >>> layout, table, units = payload_table(answer)
        >>> layout, table["up"].tolist(), table["resource_id"].tolist()
        ('prometheus', [1.0, 0.0], ['a', 'a'])
    """
    answers = payload if isinstance(payload, list) else [payload]
    if not answers or not all(isinstance(answer, Mapping) for answer in answers):
        raise SourceError(f"{source}: is no answer of CloudWatch or Prometheus. Give one JSON object.")
    if all("status" in answer for answer in answers):
        return _prometheus(answers, source)
    if all("MetricDataResults" in answer or "Datapoints" in answer for answer in answers):
        return _cloudwatch(answers, source)
    raise SourceError(
        f"{source}: JSON with the keys {list(answers[0])[:5]} is none of these: get-metric-data (MetricDataResults), "
        "get-metric-statistics (Datapoints), query_range (status, data)."
    )


def _prometheus(answers: list[Mapping[str, Any]], source: str) -> Payload:
    series, warnings = [], 0
    for answer in answers:
        if answer["status"] != "success":
            raise SourceError(f"{source}: Prometheus answers {answer.get('errorType')}: {answer.get('error')}.")
        kind = answer["data"]["resultType"]
        if kind != "matrix":
            raise SourceError(f"{source}: the result is a {kind}, not a matrix. Use /api/v1/query_range.")
        warnings += len(answer.get("warnings", ()))
        series += answer["data"]["result"]
    if any("histograms" in one for one in series):
        raise SourceError(f"{source}: holds native histograms. Query a number, such as histogram_quantile(0.95, ...).")
    labels = [{k: v for k, v in one["metric"].items() if k != "__name__"} for one in series]
    names = sorted({name for one in labels for name in one})
    telling = [name for name in names if len({one.get(name) for one in labels}) > 1] or [
        n for n in names if n == "instance"
    ]
    points = []
    for one, label in zip(series, labels, strict=True):
        found = {name: label[name] for name in telling if name in label}
        resource = (
            next(iter(found.values()), "") if len(telling) == 1 else ",".join(f"{k}={v}" for k, v in found.items())
        )
        times, values = zip(*one["values"], strict=True) if one["values"] else ((), ())
        points.append(
            _points(resource, one["metric"].get("__name__", "value"), pd.to_datetime(times, unit="s", utc=True), values)
        )
    table = _wide(points, "Prometheus", source)
    if warnings:
        table.attrs["repairs"] += (Repair("warnings of Prometheus: the answer may be incomplete", warnings),)
    return "prometheus", table, {}


def _cloudwatch(answers: list[Mapping[str, Any]], source: str) -> Payload:
    points: list[pd.DataFrame] = []
    units: dict[str, str] = {}
    notes: list[Repair] = []
    for answer in answers:
        if "Datapoints" in answer:
            header, stated, statistic, frame = _statistics(answer, source)
            units.update({header: stated} if stated else {})
            notes.append(Repair(f"CloudWatch statistic of {header!r}: {statistic}", len(frame)))
            points.append(frame)
        count_repair(notes, "messages of CloudWatch about this answer", len(answer.get("Messages") or ()))
        count_repair(notes, "answer of CloudWatch that has a NextToken: more is to be had", int("NextToken" in answer))
        for result in answer.get("MetricDataResults", ()):
            label, status = str(result.get("Label") or result.get("Id")), result.get("StatusCode", "Complete")
            if status not in ("Complete", "PartialData"):
                raise SourceError(f"{source}: CloudWatch answers {status} for {label!r}. Ask again.")
            if status == "PartialData":
                notes.append(Repair(f"series {label!r} marked PartialData: more is to be had", len(result["Values"])))
            resource, header = _label(label)
            times = pd.to_datetime(pd.Series(result["Timestamps"], dtype=object), utc=True, format="ISO8601")
            points.append(_points(resource, header, times, result["Values"]))
    table = _wide(points, "CloudWatch", source)
    table.attrs["repairs"] += tuple(notes)
    return "cloudwatch", table, units


def _statistics(answer: Mapping[str, Any], source: str) -> tuple[str, str, str, pd.DataFrame]:
    """Header, stated unit (or none), statistic and points of a get-metric-statistics answer."""
    resource, header = _label(str(answer.get("Label", "value")))
    frame = pd.DataFrame(list(answer["Datapoints"]))
    if frame.empty:
        raise SourceError(f"{source}: CloudWatch has no data points of {header!r}. Check dimensions, region and times.")
    stated = sorted(set(frame["Unit"])) if "Unit" in frame else []
    if len(stated) > 1:
        raise SchemaError(f"{source}: {header!r} comes in {' and '.join(stated)}. Ask for one with --unit.")
    rows = headers()[(headers()["layout"] == "cloudwatch") & (headers()["key"] == header_key(header))]
    metric, unit = (rows["metric"].iloc[0], rows["unit"].iloc[0]) if len(rows) else ("", "")
    unit = CLOUDWATCH_UNITS.get(stated[0] if stated else "", unit)
    given = [s for s in STATISTICS if s in frame]
    wanted = ["Sum"] if unit in ADDITIVE and metric != "queue_length" else given
    if not given or not set(wanted) & set(given):
        raise SchemaError(
            f"{source}: {header!r} has {given or 'no statistic'}; its {' or '.join(wanted or STATISTICS)} is needed. Ask with --statistics."
        )
    fits = metric in METRICS and unit in UNITS.get(METRICS[metric][0], {})
    times = pd.to_datetime(frame["Timestamp"].astype(object), utc=True, format="ISO8601")
    return header, unit if fits else "", wanted[0], _points(resource, header, times, frame[wanted[0]])


def _label(label: str) -> tuple[str, str]:
    """Resource and metric name out of a label such as `i-0abc CPUUtilization`: the word that is a known metric."""
    known = set(headers().loc[headers()["layout"] == "cloudwatch", "key"])
    words = label.split()
    found = [word for word in words if header_key(word) in known]
    return (" ".join(w for w in words if w != found[0]), found[0]) if found else ("", label)


def _points(resource: str, header: str, times: Iterable[Any], values: Iterable[Any]) -> pd.DataFrame:
    numbers = pd.to_numeric(pd.Series(list(values), dtype=object), errors="coerce").astype(float)
    stamps = pd.Series(times).reset_index(drop=True)
    return pd.DataFrame({"resource_id": resource, "timestamp": stamps, "header": header, "number": numbers})


def _wide(points: list[pd.DataFrame], service: str, source: str) -> pd.DataFrame:
    """One row per resource and time; SchemaError if two series claim the same resource and metric."""
    points = [frame for frame in points if len(frame)]
    if not points:
        raise SourceError(f"{source}: {service} gave no data points. Check the query and its times.")
    table = pd.concat(points, ignore_index=True)
    again = table.duplicated(["resource_id", "timestamp", "header"])
    if again.any():
        row = table[again].iloc[0]
        raise SchemaError(
            f"{source}: two values of {row['header']!r} for {row['resource_id'] or 'the resource'!r} at {row['timestamp']}. "
            "Name the series apart: CloudWatch with a Label such as 'i-0abc CPUUtilization' per query."
        )
    wide = table.set_index(["resource_id", "timestamp", "header"])["number"].unstack("header")
    wide = wide.reset_index().rename_axis(columns=None)
    if (wide["resource_id"] == "").all():
        wide = wide.drop(columns="resource_id")
    else:
        wide["resource_id"] = wide["resource_id"].mask(wide["resource_id"] == "", np.nan)
    n_series = len(table.drop_duplicates(["resource_id", "header"]))
    wide.attrs["repairs"] = (Repair(f"values of {n_series} {service} series put side by side", len(table)),)
    return wide
