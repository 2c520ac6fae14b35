"""Registered real traces: where they come from, how they are checked, and how each becomes Telemetry."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd
import pooch
import requests

from support.errors import BookError, SourceError, TraceUnavailableError
from support.telemetry.reading import readers, readers_machines
from support.telemetry.schema import Telemetry

__all__ = ["DATASETS", "datasets", "fetch", "list_traces", "load_trace", "read_llm_events", "trace_available"]

DOWNLOAD_TIMEOUT_SECONDS = 20
SHOWN_SOURCES = 8  # in a message


@dataclass(frozen=True)
class _Trace:
    """How a dataset is read: its reader, its files and its members.

    files: matches the whole name of a registered file; its group, if it has one, is the member in `dataset:member`.
    bare: what the name without a member means: a member, all of them (None), or nothing (an empty text).
    beside: a file that every member needs as well, {top} being the first folder of the member's own.
    inside: whether members are inside the files, for the reader to pick.
    """

    reader: Callable[[readers.Files, str, str], Telemetry]
    files: str
    bare: str | None = None
    beside: str = ""
    inside: bool = False


_TRACES = {
    "worldcup98": _Trace(readers.worldcup98, r"invocation_count\.csv"),
    "nab": _Trace(readers.nab, r"(.+)\.csv", bare="", beside=readers.NAB_LABELS),
    "appserver-traffic": _Trace(readers.appserver, r"traffic_stats_([A-Z]+).*\.csv", bare="hourly"),
    "azure-llm-2023": _Trace(readers.azure_llm, r"AzureLLMInferenceTrace_(\w+)\.csv"),
    "azure-v2-aggregate": _Trace(readers.azure_v2, r"vm_cpu_readings_month_aggregated_cpu_mem\.csv"),
    "azure-vm-noise": _Trace(readers_machines.vm_noise, r"redis_get/(.+)\.csv"),
    "bitbrains-rnd": _Trace(readers_machines.bitbrains_rnd, r"[\d-]+/(\d+)\.csv"),
    "bitbrains-faststorage": _Trace(readers_machines.bitbrains_faststorage, r"\w+\.parquet", inside=True),
    "asd": _Trace(readers_machines.asd, r"\w+/(omi-\d+)(?:_\w+)?\.(?:pkl|txt)"),
    "smd": _Trace(readers_machines.smd, r"\w+/(machine-[\d-]+)\.(?:pkl|txt)"),
    "petshop": _Trace(
        readers_machines.petshop,
        r"(?:high_traffic/)?(?:train/)?(.+)/(?:metrics\.csv|target\.json)",
        bare="noissue",
        beside="{top}/graph.csv",
    ),
    "apache-logs": _Trace(readers.apache_logs, r"apache_logs"),
}
DATASETS = tuple(_TRACES)  # those that `load_trace` understands


def datasets() -> pd.DataFrame:
    """Every dataset, one row each: title, kind, licence, whom to cite, description, an example for `load`, registered files.

    Reference vectors are no telemetry: they have no example, and no registered files where the project made them itself.

    Example:
        >>> datasets().set_index("dataset").loc["asd", ["kind", "licence", "example"]].tolist()
        ['machines with labels', 'MIT', 'asd:omi-1']
    """
    table = pd.read_csv(Path(__file__).with_name("datasets.csv"), keep_default_na=False)
    files = list_traces().groupby("dataset").size()
    return table.assign(files=table["dataset"].map(files).fillna(0).astype(int))


def list_traces() -> pd.DataFrame:
    """Every registered file: dataset, file, url, sha256, bytes, licence, description, and the source that reads it.

    `source` is what to give to `load`; it is empty for licences, notices and files that belong to all members.

    Example:
        >>> list_traces().set_index("file").loc[["2013-7/33.csv", "labels/combined_windows.json"], "source"].tolist()
        ['bitbrains-rnd:33', '']
    """
    return _registry(_mirror()).copy()


def fetch(name: str) -> Path:
    """Path of a registered file (`dataset/file`), from the BOOK_DATA mirror, the user's cache or its pinned URL.

    The SHA-256 is checked in each case. Raises TraceUnavailableError (with how to get it), SourceError for an unknown
    name or a file whose hash is wrong.
    """
    dataset, _, file = name.partition("/")
    table = _registry(_mirror())
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
        for name in _files_of(source):
            fetch(name)
    except SourceError:
        return False
    return True


def load_trace(source: str) -> Telemetry:
    """Telemetry of a registered trace: a dataset (`worldcup98`) or one member (`nab:<folder>/<series>`, `asd:omi-1`).

    `datasets` and `list_traces` list them. What its reader changed is in the repairs. Raises as `fetch`.
    """
    dataset = source.partition(":")[0]
    names = _files_of(source)
    table = _registry(_mirror())
    first = table[(table["dataset"] + "/" + table["file"]) == names[0]].iloc[0]
    about = datasets().set_index("dataset").loc[dataset]
    artificial = "ARTIFICIAL" in first["description"] or first["file"].startswith("artificial")
    alone = (table["source"] == first["source"]).sum() == 1 and source == first["source"]
    text = first["description"].removeprefix("ARTIFICIAL ") if alone else about["title"]
    provenance = f"{'Artificial series' if artificial else 'Real trace'} {source}: {text}. Licence: {first['licence']}."
    files = {name.partition("/")[2]: fetch(name) for name in names}
    try:
        telemetry = _TRACES[dataset].reader(files, source, f"{provenance} Cite {about['author']} ({about['year']}).")
    except BookError:
        raise
    except (LookupError, TypeError, ValueError) as error:  # a registry of the reader's own can name any file
        reason = " ".join(str(error).split())[:120]
        raise SourceError(f"{source}: its registered files are not as the publisher made them ({reason}).") from None
    return replace(telemetry, synthetic=artificial)


def read_llm_events(service: str) -> pd.DataFrame:
    """Requests to a service of azure-llm-2023 (`code` or `conv`), one row each in order of arrival.

    Columns `timestamp` (UTC presumed, 100 ns), `input_tokens`, `output_tokens`; `load` counts them per minute.
    Raises as `fetch`. Source: Patel et al. 2024, Splitwise, ISCA.
    """
    if not service:
        raise SourceError("service is empty. Use code or conv.")
    return readers.llm_events(fetch(_files_of(f"azure-llm-2023:{service}")[0]))


def _files_of(source: str) -> list[str]:
    """Registered files (`dataset/file`) that a source needs; SourceError if there is no such trace."""
    dataset, colon, member = source.partition(":")
    if dataset not in _TRACES:
        raise SourceError(f"{source}: no such trace. Datasets: {', '.join(DATASETS)}.")
    trace, table = _TRACES[dataset], _registry(_mirror())
    table = table[table["dataset"] == dataset]
    wanted = source.removesuffix(".csv")
    if not colon and trace.bare is not None:
        wanted = f"{dataset}:{trace.bare}"
    all_of_it = (not colon and trace.bare is None) or (trace.inside and member != "")
    own = table[(table["source"] != "") & (all_of_it | (table["source"] == wanted))]
    if own.empty:
        known = sorted(set(table["source"]) - {""})
        some = f"{', '.join(known[:SHOWN_SOURCES])}{' and more' if len(known) > SHOWN_SOURCES else ''}"
        raise SourceError(
            f"{source}: no such trace. Use {some or 'another'}; support.telemetry.list_traces() lists all."
        )
    beside = trace.beside.format(top=own["file"].iloc[0].partition("/")[0])
    names = [*own["file"], *table.loc[table["file"] == beside, "file"]]
    return [f"{dataset}/{name}" for name in names]


def _source_of(dataset: str, file: str) -> str:
    match = re.fullmatch(_TRACES[dataset].files, file) if dataset in _TRACES else None
    if match is None or not match.re.groups:
        return dataset if match else ""
    member = match.group(1)
    return f"{dataset}:{member.lower() if member.isupper() else member}"


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
    return table.assign(source=list(map(_source_of, table["dataset"], table["file"])))
