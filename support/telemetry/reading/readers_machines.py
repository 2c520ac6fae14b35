"""Readers of the registered traces of machines and services: virtual machines, labelled servers, microservices.

They keep the contract of `support.telemetry.reading.readers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from support.errors import SourceError
from support.telemetry.reading.files import pickled_array, read_table
from support.telemetry.reading.grid import count_repair
from support.telemetry.reading.readers import FIVE_MINUTES_SECONDS, HOUR_SECONDS, MBIT_PER_BYTE, Files, gridded
from support.telemetry.schema import LABEL_COLUMNS, METRICS, Repair, Telemetry

__all__ = ["asd", "bitbrains_faststorage", "bitbrains_rnd", "petshop", "smd", "vm_noise"]

KB_BYTES = 1024  # Bitbrains writes 8 GiB of memory as 8388608 KB; its throughputs presumably count the same KB
KB_PER_GIB = 1024**2
BITBRAINS_COLUMNS = {
    "Timestamp [ms]": "timestamp",
    "CPU cores": "cpu_count",
    "CPU capacity provisioned [MHZ]": "cpu_capacity_mhz",
    "CPU usage [MHZ]": "cpu_usage_mhz",
    "CPU usage [%]": "cpu_utilization",
    "Memory capacity provisioned [KB]": "memory_kb",
    "Memory usage [KB]": "memory_usage_kb",
    "Disk read throughput [KB/s]": "disk_read_mbps",
    "Disk write throughput [KB/s]": "disk_write_mbps",
    "Network received throughput [KB/s]": "network_in_mbps",
    "Network transmitted throughput [KB/s]": "network_out_mbps",
}
LONGEST_DURATION_SECONDS = 3600.0  # a fastStorage row that covers more says nothing about when

NOISE_STEPS_HOURS = (1, 2, 3, 4, 6, 8, 12, 24)
TEST_START = pd.Timestamp("2000-02-01", tz="UTC")  # artificial: the publishers of ASD and SMD removed all times
MINUTE_SECONDS = 60.0
PARTS = ("test_label", "interpretation_label", "train", "test")  # of a server's data: the first that its path mentions

PETSHOP_METRICS = {  # metric and statistic of the file -> canonical metric, factor
    ("latency", "Average"): ("latency_ms", 1000.0),
    ("latency", "p95"): ("latency_p95_ms", 1000.0),
    ("requests", "Sum"): ("requests", 1.0),
    ("availability", "Average"): ("availability_percent", 1.0),
}


def _by_name(files: Files, source: str, *needed: str) -> dict[str, Path]:
    by_name = {Path(name).name: path for name, path in files.items()}
    lacking = sorted(set(needed) - set(by_name))
    if lacking:
        raise SourceError(f"{source}: the registry of traces lacks its file {', '.join(lacking)}. Add a row for it.")
    return by_name


def bitbrains_rnd(files: Files, source: str, provenance: str) -> Telemetry:
    """VMs of a managed-hosting provider: CPU, memory, disk and network at 5 minutes, one file per VM."""
    tables = []
    for name, path in files.items():
        table = pd.read_csv(path, sep=";", skipinitialspace=True).rename(columns=str.strip)
        if list(table.columns) != list(BITBRAINS_COLUMNS):
            raise SourceError(f"{path}: its columns are {list(table.columns)}, not the eleven of a Bitbrains VM.")
        tables.append(table.rename(columns=BITBRAINS_COLUMNS).assign(resource_id=Path(name).stem))
    rows = pd.concat(tables, ignore_index=True)
    repairs = [
        Repair("rows read", len(rows)),
        Repair("timestamps read as epoch s in UTC, although the header says ms", len(rows)),
        Repair("throughputs converted from KB/s to Mbit/s, 1 KB presumed to be 1024 bytes as for memory", len(rows)),
    ]
    rows["timestamp"] = pd.to_datetime(rows["timestamp"], unit="s", utc=True).astype("datetime64[ns, UTC]")
    for metric in [c for c in rows if c.endswith("_mbps")]:
        rows[metric] *= KB_BYTES * MBIT_PER_BYTE
    running = rows[_running(rows, repairs)].copy()
    no_memory = running["memory_kb"] <= 0
    count_repair(repairs, "rows without memory capacity: memory_utilization left missing", int(no_memory.sum()))
    running["memory_utilization"] = 100 * running["memory_usage_kb"] / running["memory_kb"].mask(no_memory)
    by_vm = running.groupby("resource_id")
    resources = by_vm[["cpu_count", "cpu_capacity_mhz"]].max()
    resources["memory_gib"] = by_vm["memory_kb"].max() / KB_PER_GIB
    frame = running[["resource_id", "timestamp", *(m for m in METRICS if m in running)]]
    return gridded(frame, FIVE_MINUTES_SECONDS, source, provenance, repairs, resources)


def _running(rows: pd.DataFrame, repairs: list[Repair]) -> pd.Series:
    """Rows of a VM that has cores; before its start and after its end a VM is absent, not idle."""
    running = rows["cpu_count"] > 0
    what = "rows of a VM without cores (not yet started, or switched off) left out: it is absent, not idle"
    count_repair(repairs, what, int((~running).sum()))
    return running


def bitbrains_faststorage(files: Files, source: str, provenance: str) -> Telemetry:
    """50 VMs, or the one named: utilisation = usage / capacity; a row is stamped with the end of the interval it covers."""
    by_name = _by_name(files, source, "trace.parquet", "meta.parquet")
    trace = read_table(str(by_name["trace.parquet"]))
    meta = read_table(str(by_name["meta.parquet"])).set_index("id").sort_index()
    vm = source.partition(":")[2]
    if vm:
        if vm not in meta.index:
            raise SourceError(f"{source}: no such trace; its VMs are {', '.join(meta.index)}.")
        trace, meta = trace[trace["id"] == vm].reset_index(drop=True), meta.loc[[vm]]
    repairs = [Repair("rows read", len(trace)), Repair("interval ends moved to interval starts", len(trace))]
    trace = trace[_running(trace, repairs)]
    long = trace["duration"] > LONGEST_DURATION_SECONDS * 1000
    count_repair(repairs, "rows that cover more than an hour dropped; their intervals are missing", int(long.sum()))
    trace = trace[~long]
    slots = (trace["duration"] / (FIVE_MINUTES_SECONDS * 1000)).round().astype(int).clip(lower=1)
    several = int((slots > 1).sum())
    count_repair(repairs, "rows that cover several 5-minute intervals, their mean taken for each of these", several)
    start = (trace["timestamp"] - pd.to_timedelta(trace["duration"], unit="ms")).repeat(slots)
    place = start.groupby(level=0).cumcount()
    usage = 100 * trace["cpu_usage"] / trace["id"].map(meta["cpu_capacity"].where(meta["cpu_capacity"] > 0))
    frame = pd.DataFrame(
        {
            "resource_id": trace["id"].repeat(slots),
            "timestamp": (start + pd.to_timedelta(place * FIVE_MINUTES_SECONDS, unit="s")).dt.as_unit("ns"),
            "cpu_utilization": usage.repeat(slots),
        }
    )
    capacity = {"cpu_count": meta["cpu_count"].astype(float), "cpu_capacity_mhz": meta["cpu_capacity"]}
    resources = pd.DataFrame(capacity | {"memory_gib": meta["mem_capacity"] / KB_PER_GIB}).rename_axis("resource_id")
    return gridded(frame, FIVE_MINUTES_SECONDS, source, provenance, repairs, resources)


def vm_noise(files: Files, source: str, provenance: str) -> Telemetry:
    """Redis throughput of VMs on a grid of whole hours near the median time between two runs, which is irregular.

    A short-lived VM has one run and so one row: the spread over many hosts. `resources` tells region, SKU and lifespan.
    """
    tables = []
    for name, path in files.items():
        part = Path(name).stem
        lifespan, region, sku = part.split("_", 2)
        table = pd.read_csv(path, parse_dates=["starttime"], date_format="%Y-%m-%d %H:%M:%S.%f")
        table["VM_id"] = part + "/" + table["VM_id"].astype(str)  # unique only inside its file
        tables.append(table.assign(region=region, sku=sku, lifespan=lifespan))
    runs = pd.concat(tables, ignore_index=True)
    runs = runs.rename(columns={"value": "throughput_rps", "starttime": "timestamp", "VM_id": "resource_id"})
    runs["timestamp"] = runs["timestamp"].dt.tz_localize("UTC").dt.as_unit("ns")
    runs = runs.sort_values(["resource_id", "timestamp"])
    gaps = runs.groupby("resource_id")["timestamp"].diff().dt.total_seconds().dropna()
    median_hours = gaps.median() / HOUR_SECONDS if len(gaps) else NOISE_STEPS_HOURS[0]
    hours = min(NOISE_STEPS_HOURS, key=lambda step: abs(np.log(step / median_hours)))
    interval = runs["timestamp"].dt.floor(pd.Timedelta(hours=hours))
    means = runs.groupby(["resource_id", interval])["throughput_rps"].mean().reset_index()
    repairs = [
        Repair("rows read", len(runs)),
        Repair("timestamps carry no timezone, taken as UTC", len(runs)),
        Repair(f"runs at irregular times put into intervals of {hours} h", len(runs)),
    ]
    count_repair(repairs, "runs in the same interval as another, the mean taken", len(runs) - len(means))
    resources = runs.groupby("resource_id")[["region", "sku", "lifespan"]].first()
    return gridded(means, hours * HOUR_SECONDS, source, provenance, repairs, resources)


def _array(path: Path) -> np.ndarray:
    return pickled_array(path) if path.suffix == ".pkl" else np.loadtxt(path, delimiter=",")


def asd(files: Files, source: str, provenance: str) -> Telemetry:
    """Servers with 19 metrics at 5 minutes: the training part, then the test part with its labelled anomalies."""
    return _labelled_servers(files, FIVE_MINUTES_SECONDS, source, provenance)


def smd(files: Files, source: str, provenance: str) -> Telemetry:
    """Servers with 38 metrics at 1 minute: the training part, then the test part with its labelled anomalies."""
    return _labelled_servers(files, MINUTE_SECONDS, source, provenance)


def _labelled_servers(files: Files, step: float, source: str, provenance: str) -> Telemetry:
    servers: dict[str, dict[str, Path]] = {}
    for name, path in files.items():
        part = next(part for part in PARTS if part in name)
        server = re.sub("_(train|test|test_label)$", "", Path(name).stem)
        servers.setdefault(server, {})[part] = path
    frames, labels, test_rows, differing = [], [], 0, 0
    for server, parts in sorted(servers.items()):
        if len(parts) < len(PARTS):
            raise SourceError(f"{source}: {server} needs its {', '.join(PARTS)}; registered are {', '.join(parts)}.")
        train, test = _array(parts["train"]), _array(parts["test"])
        test_rows += len(test)
        columns = [f"metric_{number:02d}" for number in range(1, test.shape[1] + 1)]
        frame = pd.DataFrame(np.concatenate([train, test]).astype(float), columns=columns)
        ticks = np.arange(-len(train), len(test)) * step
        stamps = (TEST_START + pd.to_timedelta(ticks, unit="s")).as_unit("ns")
        frame.index = pd.MultiIndex.from_product([[server], stamps], names=["resource_id", "timestamp"])
        frames.append(frame)
        segments, unlike = _segments(parts)
        differing += unlike
        for first, last, metrics in segments:
            labels.append((server, stamps[len(train) + first], stamps[len(train) + last], "labelled anomaly", metrics))
    observations = pd.concat(frames)
    taken = f"artificial ones, the training part ends where the test part starts, at {TEST_START:%Y-%m-%d %H:%M}"
    repairs = [
        Repair("rows read", len(observations)),
        Repair(f"no times in the source: {taken}", len(observations)),
        Repair("of these, rows of the test part, the only one with labels", test_rows),
        Repair("metrics without names in the source, numbered in its order", observations.shape[1]),
    ]
    what = "anomalies that the row labels and the text on guilty metrics bound differently, the rows taken"
    count_repair(repairs, what, differing)
    resources = pd.DataFrame({"test_start": TEST_START}, index=pd.Index(sorted(servers), name="resource_id"))
    known = pd.DataFrame(labels, columns=list(LABEL_COLUMNS))
    return Telemetry(observations, step, source, provenance, False, resources, tuple(repairs), known)


def _segments(parts: Mapping[str, Path]) -> tuple[list[tuple[int, int, str]], int]:
    """First row, last row and guilty metrics of each anomaly of a test part, in order; how many are told differently.

    The row labels say when. The text says which metrics: its last row is included for ASD and excluded for SMD, it may
    cut an anomaly in two, and it need not be in order; the metrics of all it says about an anomaly are joined.
    """
    edges = np.flatnonzero(np.diff(_array(parts["test_label"]).ravel() > 0, prepend=False, append=False)).reshape(-1, 2)
    lines = parts["interpretation_label"].read_text(encoding="utf-8").split()
    told = [[int(number) for number in re.split("[-:,]", line)] for line in lines]
    segments, unlike = [], 0
    for first, end in edges.tolist():
        within = [numbers for numbers in told if numbers[0] < end and numbers[1] >= first]
        unlike += [numbers[:2] for numbers in within] not in ([[first, end - 1]], [[first, end]])
        guilty = sorted({number for numbers in within for number in numbers[2:]})
        segments.append((first, end - 1, ",".join(f"metric_{number:02d}" for number in guilty)))
    return segments, unlike


def petshop(files: Files, source: str, provenance: str) -> Telemetry:
    """Latency, requests and availability of microservices at 5 minutes; `resources` tells what each service calls.

    An issue has two labels, both at the time of the alarm: the service that raised it, and the root cause.
    """
    by_name = _by_name(files, source, "metrics.csv", "graph.csv")
    table = pd.read_csv(by_name["metrics.csv"], header=[0, 1, 2], index_col=0)
    kinds = table.columns.droplevel(0).unique()
    lacking = [" ".join(kind) for kind in PETSHOP_METRICS if kind not in kinds]
    if lacking:
        raise SourceError(f"{by_name['metrics.csv']}: lacks {', '.join(lacking)}. Use the file of the publisher.")
    table.index = pd.to_datetime(table.index, unit="s", utc=True).as_unit("ns")
    metrics = {}
    for kind, (metric, factor) in PETSHOP_METRICS.items():
        by_service = table.xs(kind, axis=1, level=[1, 2]) * factor
        index = pd.MultiIndex.from_product([by_service.columns, table.index], names=["resource_id", "timestamp"])
        metrics[metric] = pd.Series(by_service.to_numpy().T.ravel(), index)
    frame = pd.DataFrame(metrics).reset_index()
    unused = [" ".join(kind) for kind in kinds if kind not in PETSHOP_METRICS]
    repairs = [
        Repair("rows read", len(table)),
        Repair("latencies converted from s to ms", 2 * len(frame)),
        Repair(f"statistics not used: {', '.join(unused)}", len(unused)),
    ]
    graph = pd.read_csv(by_name["graph.csv"], index_col=0)
    calls = {
        service: ",".join(graph.columns[row > 0]) for service, row in zip(graph.index, graph.to_numpy(), strict=True)
    }
    services = pd.Index(sorted(frame["resource_id"].unique()), name="resource_id")
    resources = pd.DataFrame({"calls": services.map(lambda service: calls.get(service, ""))}, index=services)
    telemetry = gridded(frame, FIVE_MINUTES_SECONDS, source, provenance, repairs, resources)
    return telemetry if "target.json" not in by_name else _with_issue(telemetry, by_name["target.json"])


def _with_issue(telemetry: Telemetry, path: Path) -> Telemetry:
    """The same with the alarm and the root cause of an injected issue as labels."""
    issue = json.loads(path.read_text(encoding="utf-8"))
    alarm, cause = issue["target"], issue["root_cause"]
    metric_of = {metric: name for (metric, statistic), (name, _) in PETSHOP_METRICS.items() if statistic != "p95"}
    when = pd.Timestamp(alarm["timestamp"], unit="s", tz="UTC").floor(pd.Timedelta(seconds=FIVE_MINUTES_SECONDS))
    rows = [
        (node["node"], when, when, kind, metric_of.get(node["metric"], ""))
        for kind, node in (("alarm", alarm), ("root cause", cause))
    ]
    return replace(telemetry, labels=pd.DataFrame(rows, columns=list(LABEL_COLUMNS)))
