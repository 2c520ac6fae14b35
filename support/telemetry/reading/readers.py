"""Readers of the registered traces of demand: each knows its format and what is wrong with it.

A reader takes the local files (name in the dataset -> path), the source and the provenance, and returns Telemetry. Files are
verified before (`support.telemetry.reading.traces.fetch`). Machines and services: `support.telemetry.reading.readers_machines`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from support.errors import SourceError
from support.telemetry.reading.files import read_table
from support.telemetry.reading.grid import COMMON_STEPS_SECONDS, count_repair, merged_repairs, to_grid
from support.telemetry.reading.tidy import Fill, tidy
from support.telemetry.schema import LABEL_COLUMNS, METRICS, Repair, Telemetry

__all__ = ["Files", "apache_logs", "appserver", "azure_llm", "azure_v2", "gridded", "llm_events", "nab", "worldcup98"]

Files = Mapping[str, Path]

MBIT_PER_BYTE = 8 / 1e6
FIVE_MINUTES_SECONDS, HOUR_SECONDS, DAY_SECONDS = 300.0, 3600.0, 86_400.0
LONGEST_INTERPOLATION_SECONDS = 3600.0  # a longer hole is filled, if at all, from the same time of a nearby day

NAB_REQUESTS = ("request_count", "Twitter_volume", "nyc_taxi")  # counts per interval, near enough to requests
NAB_METRICS = (  # part of the name -> metric; the first that fits
    *((part, "requests") for part in NAB_REQUESTS),
    ("cpu_utilization", "cpu_utilization"),
    ("grok_asg", "cpu_utilization"),
    ("network_in", "network_in_mbps"),
    ("NetworkIn", "network_in_mbps"),
    ("disk_write_bytes", "disk_write_mbps"),
    ("request_latency", "latency_ms"),
)
NAB_LABELS = "labels/combined_windows.json"

APPSERVER_ZONE = "Europe/Brussels"  # 02:00 is skipped on the last Sunday of March: Central European time
AZURE_V2_START = pd.Timestamp("2019-01-04", tz="UTC")  # a Friday of 2019: days 1, 2, 8, 9, ... (from 0) are the weekend


def gridded(
    frame: pd.DataFrame,
    step_seconds: float,
    source: str,
    provenance: str,
    repairs: list[Repair],
    resources: pd.DataFrame | None = None,
    fill: Fill = "none",
) -> Telemetry:
    """Rows (`resource_id`, `timestamp` UTC, metrics) on a regular grid of a known step; holes are counted and, unless
    `fill` says otherwise (as in `support.telemetry.reading.tidy.tidy`), stay NaN.
    """
    if frame.empty:
        raise SourceError(f"{source}: no usable row is left. Choose another member of the dataset.")
    once = frame.drop_duplicates().sort_values(["resource_id", "timestamp"], kind="stable", ignore_index=True)
    count_repair(repairs, "rows that repeat another row exactly, dropped", len(frame) - len(once))
    for metric in [c for c in once if c.endswith("_utilization")]:
        highest = METRICS[metric][2]
        beyond = once[metric] > highest
        count_repair(repairs, f"values of {metric} over {highest:g} percent, left missing", int(beyond.sum()))
        once[metric] = once[metric].mask(beyond)
        count_repair(repairs, f"values of {metric} above 100 percent, kept", int((once[metric] > 100).sum()))
    single = ~once["resource_id"].duplicated(keep=False)  # on the grid already, once rounded; there may be thousands
    pieces = [
        to_grid(part, step_seconds, fill, LONGEST_INTERPOLATION_SECONDS, source, repairs)
        for _, part in once[~single].groupby("resource_id")
    ]
    if single.any():
        rounded = once[single].assign(timestamp=once["timestamp"].dt.round(pd.Timedelta(seconds=step_seconds)))
        pieces.append(rounded.set_index(["resource_id", "timestamp"]))
    observations = pd.concat(pieces).sort_index()
    if resources is None:
        resources = pd.DataFrame(index=pd.Index(sorted(frame["resource_id"].unique()), name="resource_id"))
    return Telemetry(observations, step_seconds, source, provenance, False, resources, merged_repairs(repairs))


def worldcup98(files: Files, source: str, provenance: str) -> Telemetry:
    """Requests per minute; a minute without a row had no request."""
    return tidy(
        read_table(str(files["invocation_count.csv"])),
        source=source,
        provenance=f"{provenance} Its notice is the registered file worldcup98/WorldCup.html.",
        timestamp_column="period",
        value_column="count",
        metric="requests",
        fill="zero",
    )


def nab(files: Files, source: str, provenance: str) -> Telemetry:
    """A series of the Numenta Anomaly Benchmark with its labelled windows; sparse ones keep their holes as NaN."""
    name = next(n for n in files if n != NAB_LABELS)
    table = read_table(str(files[name])).rename(columns=str.lower)
    stamps = pd.to_datetime(table["timestamp"])
    step = float(stamps.diff().dt.total_seconds().median())
    step = next((float(c) for c in COMMON_STEPS_SECONDS if abs(c - step) <= 0.02 * c), step)
    metric = next((m for part, m in NAB_METRICS if part in name), "value")
    repairs = []
    if metric.endswith("_mbps"):
        table["value"] = table["value"] * MBIT_PER_BYTE / step
        repairs.append(Repair("bytes per interval converted to Mbit/s", len(table)))
    elif metric == "latency_ms":
        repairs.append(Repair("latency without a unit in the source, taken as milliseconds", len(table)))
    table["timestamp"], spread = _spread_lost_hour(stamps, step)
    count_repair(repairs, "rows all stamped with the end of a hole (daylight saving), spread evenly over it", spread)
    if (stamps.max() - stamps.min()).total_seconds() / step > 2 * len(table):  # most intervals have no row
        repairs = [Repair("rows read", len(table)), *repairs]
        repairs.append(Repair("timestamps carry no timezone, taken as UTC", len(table)))
        frame = pd.DataFrame({"resource_id": "demand", "timestamp": table["timestamp"].dt.tz_localize("UTC")})
        telemetry = gridded(frame.assign(**{metric: table["value"]}), step, source, provenance, repairs)
    else:
        telemetry = tidy(
            table,
            source=source,
            provenance=provenance,
            timestamp_column="timestamp",
            value_column="value",
            metric=metric,
            duplicates="mean",
        )
        telemetry = replace(telemetry, repairs=(*telemetry.repairs, *repairs))
    return replace(telemetry, labels=_nab_labels(files.get(NAB_LABELS), name, telemetry))


def _spread_lost_hour(stamps: pd.Series, step: float) -> tuple[pd.Series, int]:
    """Runs of one stamp that fit exactly into the hole before them, spread over it; how many rows were moved."""
    runs = (stamps != stamps.shift()).cumsum()
    first, size = ~runs.duplicated(), runs.map(runs.value_counts())
    before = stamps.shift().where(first).groupby(runs).transform("first")
    after = stamps.shift(-1).where(~runs.duplicated(keep="last")).groupby(runs).transform("last")
    fits = (size > 2) & (((after - before).dt.total_seconds() / step).round() == size + 1)
    place = stamps.groupby(runs).cumcount() + 1
    return stamps.mask(fits, before + pd.to_timedelta(place * step, unit="s")), int(fits.sum())


def _nab_labels(path: Path | None, name: str, telemetry: Telemetry) -> pd.DataFrame:
    """The labelled windows of one file, moved to the nearest interval of its grid."""
    windows = json.loads(path.read_text(encoding="utf-8")).get(name, []) if path else []
    times = telemetry.observations.index.get_level_values("timestamp")
    metric, resource = telemetry.metrics[0], telemetry.resource_ids[0]
    ends = [times[times.get_indexer(pd.to_datetime(window, utc=True), method="nearest")] for window in windows]
    rows = [(resource, start, end, "labelled window", metric) for start, end in ends]
    return pd.DataFrame(rows, columns=list(LABEL_COLUMNS))


def appserver(files: Files, source: str, provenance: str) -> Telemetry:
    """Requests to a cluster per hour, or per local day and server; which of the two, its only file tells."""
    path = next(iter(files.values()))
    rows = read_table(str(path))
    lacking = sorted({"year", "month", "day", "requests"} - set(rows.columns))
    if lacking or not {"hour", "host"} & set(rows.columns):
        raise SourceError(
            f"{path}: its columns are {list(rows.columns)}; year, month, day, hour or host, requests are needed."
        )
    note = "The level rises fourfold in November and December 2015, when traffic was migrated to the cluster."
    read = _appserver_hourly if "hour" in rows.columns else _appserver_daily
    return read(rows, source, f"{provenance} {note}")


def _appserver_hourly(rows: pd.DataFrame, source: str, provenance: str) -> Telemetry:
    """From Central European wall-clock time; the 19 hours without a row are filled from nearby days and flagged."""
    wall = pd.to_datetime(rows[["year", "month", "day", "hour"]])
    # The autumn hour that the clock repeats has one row; its value continues the evening: the first of the two.
    times = wall.dt.tz_localize(APPSERVER_ZONE, ambiguous=np.ones(len(wall), dtype=bool)).dt.tz_convert("UTC")
    repeated = wall.dt.tz_localize(APPSERVER_ZONE, ambiguous="NaT").isna()
    repairs = [
        Repair("rows read", len(rows)),
        Repair(f"wall-clock times taken as {APPSERVER_ZONE} and converted to UTC", len(rows)),
        Repair("hours that the clock repeats in autumn: the row taken as the first of the two", int(repeated.sum())),
    ]
    frame = pd.DataFrame({"resource_id": "cluster", "timestamp": times, "requests": rows["requests"].astype(float)})
    return gridded(frame, HOUR_SECONDS, source, provenance, repairs, fill="interpolate")


def _appserver_daily(rows: pd.DataFrame, source: str, provenance: str) -> Telemetry:
    """A server that is out has 0, its partners serve its share."""
    days = pd.to_datetime(rows[["year", "month", "day"]]).dt.tz_localize("UTC")
    repairs = [
        Repair("rows read", len(rows)),
        Repair("local calendar days, stamped with 00:00 UTC of their date", len(rows)),
    ]
    partial = days.isin([days.min(), days.max()])
    count_repair(
        repairs, "rows of the first and last day, which are recorded in part only, dropped", int(partial.sum())
    )
    frame = pd.DataFrame({"resource_id": rows["host"], "timestamp": days, "requests": rows["requests"].astype(float)})
    return gridded(frame[~partial], DAY_SECONDS, source, provenance, repairs)


def llm_events(path: Path) -> pd.DataFrame:
    """One row per request: `timestamp` (UTC presumed, 100 ns), `input_tokens`, `output_tokens`, in order of arrival."""
    table = pd.read_csv(path)
    return pd.DataFrame(
        {
            "timestamp": pd.to_datetime(table["TIMESTAMP"], format="%Y-%m-%d %H:%M:%S.%f", utc=True).dt.as_unit("ns"),
            "input_tokens": table["ContextTokens"],
            "output_tokens": table["GeneratedTokens"],
        }
    ).sort_values("timestamp", kind="stable", ignore_index=True)


def azure_llm(files: Files, source: str, provenance: str) -> Telemetry:
    """Requests, input and output tokens per minute and service; a minute without a request has 0."""
    counts = {}
    for name, path in files.items():
        service = Path(name).stem.rpartition("_")[2]
        minutes = llm_events(path).assign(requests=1.0).resample("60s", on="timestamp")
        counts[service] = minutes[["requests", "input_tokens", "output_tokens"]].sum().astype(float)
    frame = pd.concat(counts, names=["resource_id", "timestamp"]).sort_index()
    n_requests = int(frame["requests"].sum())
    repairs = [
        Repair("rows read", n_requests),
        Repair("timestamps carry no timezone, taken as UTC", n_requests),
        Repair("requests counted per minute", n_requests),
        Repair("first and last minute of a service, recorded in part only, kept", 2 * len(counts)),
    ]
    count_repair(repairs, "minutes without a request, 0", int((frame["requests"] == 0).sum()))
    note = "The publisher's text dates it to 11 November 2023, its timestamps to 16 November."
    resources = pd.DataFrame(index=pd.Index(sorted(counts), name="resource_id"))
    return Telemetry(frame, 60.0, source, f"{provenance} {note}", resources=resources, repairs=tuple(repairs))


def azure_v2(files: Files, source: str, provenance: str) -> Telemetry:
    """Cores in use and memory assigned over all VMs of a region, on an artificial calendar with the right weekdays."""
    rows = read_table(str(next(iter(files.values()))))
    times = AZURE_V2_START + pd.to_timedelta(rows["timestamp"], unit="s")
    repairs = [
        Repair("rows read", len(rows)),
        Repair(f"no calendar date in the source: artificial one from {AZURE_V2_START:%A %Y-%m-%d}", len(rows)),
        Repair("cpu_usage without a unit, presumed percent of a core: divided by 100", len(rows)),
        Repair("assigned_mem without a unit, presumed GiB", len(rows)),
    ]
    frame = pd.DataFrame({"resource_id": "region", "timestamp": times})
    frame["cpu_cores_used"], frame["memory_assigned_gib"] = rows["cpu_usage"] / 100, rows["assigned_mem"].astype(float)
    return gridded(frame, FIVE_MINUTES_SECONDS, source, provenance, repairs)


def apache_logs(files: Files, source: str, provenance: str) -> Telemetry:
    """Requests per hour of a parser's sample log; it was sampled and re-timed, so its rates mean nothing."""
    from support.telemetry.reading.access_logs import load_access_log  # Polars: 22 MB that no other reader needs

    telemetry = load_access_log(str(files["apache_logs"]), step_seconds=HOUR_SECONDS)
    note = "Sampled and re-timed by its publisher: for parsers, not for rates."
    resources = pd.DataFrame(index=pd.Index(telemetry.resource_ids, name="resource_id"))
    return replace(telemetry, source=source, provenance=f"{provenance} {note}", resources=resources)
