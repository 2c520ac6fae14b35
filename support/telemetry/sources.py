"""One door for all data: `load(source)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.errors import SourceError
from support.telemetry.generation.generator import OPTIONS, synthetic
from support.telemetry.reading.files import MAX_BYTES, SUFFIXES, read_table
from support.telemetry.reading.tidy import RESOURCE_NAMES, tidy
from support.telemetry.reading.traces import DATASETS, load_trace
from support.telemetry.schema import Telemetry

__all__ = ["load"]

FILE_OPTIONS = (
    "timestamp_column",
    "value_column",
    "resource_column",
    "metric",
    "timezone",
    "duplicates",
    "fill",
    "max_gap_seconds",
    "group_columns",
)
LIVE_KINDS = ("prometheus+http", "prometheus+https", "agent+http", "agent+https")
LIVE_OPTIONS = ("columns", "units", "duplicates", "fill", "max_gap_seconds")
LOG_OPTIONS = ("open_seconds",)


def load(
    source: str,
    *,
    seed: int | None = None,
    step_seconds: float | None = None,
    max_bytes: float = MAX_BYTES,
    **options: Any,
) -> Telemetry:
    """Telemetry from anywhere.

    source: `synthetic`, `synthetic:<preset>`, `fitted:<trace>`; a registered trace (`worldcup98`, `nab:<folder>/<series>`,
    `bitbrains-rnd:<vm>`); `log:<path>` of an access log; `prometheus+http://host:9090/?query=...&start=-6h&step=60` or
    `agents:http://host:9100/metrics?samples=60&step=5`; a path or URL of CSV, CSV.gz or Parquet, also one that
    `support.telemetry.storage.export.write` wrote. seed: needed for generated sources. step_seconds: aggregate to this coarser step
    (generated sources are made at it if it is no multiple of their own, logs always). max_bytes: the largest file that is read.
    options: for generated sources those of `support.telemetry.generation.generator.stream`; for files `timestamp_column`,
    `value_column`, `resource_column`, `metric`, `timezone`, `duplicates`, `fill`, `max_gap_seconds`, `group_columns` (see
    `tidy`).
    Raises SourceError, SchemaError, TooShortError, each one sentence that says how to mend it.

    Example:
        >>> load("synthetic", seed=1, days=2, step_seconds=3600.0).demand().shape
        (48,)
    """
    source = str(source).strip()
    if not source:
        raise SourceError(
            "source is empty. Give 'synthetic', a trace such as 'worldcup98', or the path of a CSV or Parquet file."
        )
    kind = source.split(":")[0]
    options = {name: value for name, value in options.items() if value is not None}
    if kind in ("synthetic", "fitted"):
        telemetry = _generated(source, seed, step_seconds, options)
    elif kind in DATASETS and not Path(source).exists():
        _refuse_unknown(source, options, ())
        telemetry = load_trace(source)
    elif kind == "log":
        from support.telemetry.reading.access_logs import load_access_log  # Polars: only here

        _refuse_unknown(source, options, LOG_OPTIONS)
        telemetry = load_access_log(source[len("log:") :], step_seconds=step_seconds or 60.0, **options)
    elif kind in (*LIVE_KINDS, "agents"):
        from support.telemetry.reading.live import load_live

        source = source.replace("agents:", "agent+", 1) if kind == "agents" else source
        _refuse_unknown(source.split("?")[0], options, LIVE_OPTIONS)
        telemetry = load_live(source, **options)
    else:
        telemetry = _file(source, max_bytes, options)
    return telemetry.resample(step_seconds) if step_seconds and step_seconds != telemetry.step_seconds else telemetry


def _generated(source: str, seed: int | None, step_seconds: float | None, options: dict[str, Any]) -> Telemetry:
    if seed is None:
        raise SourceError(f"{source}: needs a seed, such as seed=1.")
    _refuse_unknown(source, options, OPTIONS)
    preset = source if source.startswith("fitted") else source.partition(":")[2] or "web"
    telemetry = synthetic(preset, seed=seed, **options)
    if step_seconds and step_seconds % telemetry.step_seconds:
        telemetry = synthetic(preset, seed=seed, step_seconds=step_seconds, **options)
    return telemetry


def _file(source: str, max_bytes: float, options: dict[str, Any]) -> Telemetry:
    _refuse_unknown(source, options, FILE_OPTIONS)
    if not set("./\\") & set(source) and not Path(source).exists():
        raise SourceError(
            f"{source}: is neither a file nor a known source. Known are synthetic, synthetic:<preset>, fitted:<trace>, log:<path>, "
            f"{', '.join(DATASETS)}:<series>, and paths or URLs of {', '.join(SUFFIXES)}."
        )
    if not options and (Path(f"{source}.about.json").exists() or (Path(source) / "_about.json").exists()):
        from support.telemetry.storage.export import (
            read,  # what the book wrote, it reads whole: labels, resources, origin
        )

        return read(source)
    groups = options.get("group_columns", ())
    names = {options.get("resource_column"), *([groups] if isinstance(groups, str) else groups), *RESOURCE_NAMES}
    table = read_table(source, max_bytes=max_bytes, texts=names - {options.get("value_column"), None})
    address = source.split("?")[0] if "://" in source else source  # a query may hold a key
    name = address.rsplit("/", 1)[-1]
    return tidy(table, source=address, provenance=f"The file {name}, as given by the reader.", **options)


def _refuse_unknown(source: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        accepted = (
            f"It takes {', '.join(known)}."
            if known
            else "A registered trace takes none: its columns and times are known."
        )
        raise SourceError(f"{source}: option {', '.join(unknown)} does not apply to this source. {accepted}")
