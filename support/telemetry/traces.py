"""Registered real traces: where they come from, how they are checked, and how each becomes Telemetry."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pooch
import requests

from support.errors import SourceError, TraceUnavailableError
from support.telemetry.files import read_table
from support.telemetry.schema import Repair, Telemetry
from support.telemetry.tidy import tidy

__all__ = ["DATASETS", "fetch", "list_traces", "load_trace", "trace_available"]

DATASETS = ("worldcup98", "nab")  # those that `load_trace` understands
NAB_REQUESTS = ("request_count", "Twitter_volume", "nyc_taxi")  # counts per interval, near enough to requests

MAIN_FILE = {"worldcup98": "invocation_count.csv"}
DOWNLOAD_TIMEOUT_SECONDS = 20
NAB_METRICS = {
    "cpu_utilization": "cpu_utilization",
    "grok_asg": "cpu_utilization",
    "network_in": "network_in_mbps",
    "NetworkIn": "network_in_mbps",
}


def list_traces() -> pd.DataFrame:
    """Every registered file: dataset, file, url, sha256, bytes, licence, description.

    Example:
        >>> bool((list_traces()["dataset"] == "worldcup98").any())
        True
    """
    return _registry(_mirror())


def fetch(name: str) -> Path:
    """Path of a registered file (`dataset/file`), from the BOOK_DATA mirror, the user's cache or its pinned URL.

    The SHA-256 is checked in each case. Raises TraceUnavailableError (with how to get it), SourceError for an unknown
    name or a file whose hash is wrong.
    """
    dataset, _, file = name.partition("/")
    table = list_traces()
    rows = table[(table["dataset"] == dataset) & (table["file"] == file)]
    if rows.empty:
        raise SourceError(
            f"{name}: no such file in the registry of traces. Datasets: {', '.join(sorted(set(table['dataset'])))}."
        )
    row, mirror = rows.iloc[0], _mirror()
    if mirror is not None:
        path = mirror / dataset / file
        if not path.exists():
            raise TraceUnavailableError(
                f"{name}: is not in the mirror BOOK_DATA={mirror}. Copy it there from {row['url']}."
            )
        if pooch.file_hash(str(path)) != row["sha256"]:
            raise SourceError(
                f"{path}: its SHA-256 is not that of the registry; the file is damaged or another version."
            )
        return path
    pooch.get_logger().setLevel("WARNING")  # its "Downloading ..." would end up on a page
    try:
        return Path(
            pooch.retrieve(
                row["url"],
                known_hash=f"sha256:{row['sha256']}",
                fname=Path(file).name,
                path=pooch.os_cache("capacity-under-uncertainty") / dataset / Path(file).parent,
                downloader=pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_SECONDS),
            )
        )
    except ValueError as error:
        raise SourceError(f"{name}: what {row['url']} sent has the wrong SHA-256 ({error}).") from None
    except (OSError, requests.RequestException):
        raise TraceUnavailableError(
            f"{name}: could not be downloaded. Get {row['url']} and name a folder that holds it as {name} with BOOK_DATA=<folder>."
        ) from None


def trace_available(source: str) -> bool:
    """True if the registered trace `source` can be had here: mirror, cache, or a download that works."""
    try:
        fetch(_file_of(source))
    except SourceError:
        return False
    return True


def load_trace(source: str) -> Telemetry:
    """Telemetry of a registered trace: `worldcup98` or `nab:<folder>/<series>`. Raises as `fetch`."""
    name = _file_of(source)
    path, table = fetch(name), list_traces()
    row = table[(table["dataset"] + "/" + table["file"]) == name].iloc[0]
    artificial = "ARTIFICIAL" in row["description"]
    kind = "Artificial series" if artificial else "Real trace"
    provenance = f"{kind} {source}: {row['description'].removeprefix('ARTIFICIAL ')}. Licence: {row['licence']}."
    frame = read_table(str(path))
    if source == "worldcup98":
        notice = "Its notice is the registered file worldcup98/WorldCup.html."
        return tidy(
            frame,
            source=source,
            provenance=f"{provenance} {notice}",
            timestamp_column="period",
            value_column="count",
            metric="requests",
            fill="zero",
        )
    return replace(_nab(frame, source, provenance), synthetic=artificial)


def _nab(frame: pd.DataFrame, source: str, provenance: str) -> Telemetry:
    """A series of the Numenta Anomaly Benchmark: CloudWatch bytes become Mbit/s, the clock's repeated hour is averaged."""
    metric = next((m for part, m in NAB_METRICS.items() if part in source), "requests")
    if metric == "network_in_mbps":
        stamps = pd.to_datetime(frame["timestamp"])
        frame["value"] = frame["value"] * 8 / 1e6 / stamps.diff().dt.total_seconds().median()
    telemetry = tidy(
        frame,
        source=source,
        provenance=provenance,
        timestamp_column="timestamp",
        value_column="value",
        metric=metric,
        duplicates="mean",
    )
    if metric == "network_in_mbps":
        note = Repair("bytes per interval converted to Mbit/s", len(frame))
    elif metric == "requests" and not any(part in source for part in NAB_REQUESTS):
        note = Repair("values that count no requests, taken as if they did (see the description)", len(frame))
    else:
        return telemetry
    return replace(telemetry, repairs=(*telemetry.repairs, note))


def _file_of(source: str) -> str:
    dataset, _, rest = source.partition(":")
    if dataset in MAIN_FILE and not rest:
        return f"{dataset}/{MAIN_FILE[dataset]}"
    if dataset == "nab" and rest:
        return f"nab/{rest.removesuffix('.csv')}.csv"
    raise SourceError(
        f"{source}: no such trace. Use worldcup98 or nab:<folder>/<series>, for example nab:realAWSCloudwatch/ec2_cpu_utilization_5f5533."
    )


def _mirror() -> Path | None:
    folder = os.environ.get("BOOK_DATA")
    return Path(folder).resolve() if folder else None


@cache
def _registry(mirror: Path | None) -> pd.DataFrame:
    """The mirror's own registry.csv if it has one, else the packaged one."""
    own = mirror / "registry.csv" if mirror else None
    path = own if own and own.exists() else Path(__file__).with_name("registry.csv")
    table = pd.read_csv(path)
    lacking = [c for c in ("dataset", "file", "url", "sha256", "description", "licence") if c not in table.columns]
    if lacking:
        raise SourceError(f"{path}: the registry of traces lacks the columns {', '.join(lacking)}.")
    return table
