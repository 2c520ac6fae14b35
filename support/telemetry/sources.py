"""One door for all data: `load(source)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.errors import SourceError
from support.telemetry.files import MAX_BYTES, read_table
from support.telemetry.generator import synthetic
from support.telemetry.schema import Telemetry
from support.telemetry.tidy import tidy
from support.telemetry.traces import list_traces, load_trace

__all__ = ["load"]


def load(
    source: str,
    *,
    seed: int | None = None,
    step_seconds: float | None = None,
    max_bytes: float = MAX_BYTES,
    **options: Any,
) -> Telemetry:
    """Telemetry from anywhere.

    source: `synthetic`, `synthetic:<preset>`; a registered trace (`worldcup98`, `nab:realAWSCloudwatch/...`); a path or URL
    of CSV, CSV.gz or Parquet. seed: needed for synthetic sources. step_seconds: aggregate to this coarser step.
    options: for synthetic `days`, `n_resources`; for files `timestamp_column`, `value_column`, `resource_column`,
    `metric`, `timezone`, `duplicates`, `max_gap_seconds` (see `support.telemetry.tidy.tidy`).
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
    if kind == "synthetic":
        if seed is None:
            raise SourceError(f"{source}: needs a seed, such as seed=1.")
        telemetry = synthetic(source.partition(":")[2] or "web", seed=seed, **options)
    elif kind in set(list_traces()["dataset"]) and not Path(source).exists():
        telemetry = load_trace(source)
    else:
        table = read_table(source, max_bytes=max_bytes)
        name = source.split("://")[-1].rsplit("/", 1)[-1]
        telemetry = tidy(table, source=source, provenance=f"The file {name}, as given by the reader.", **options)
    return telemetry.resample(step_seconds) if step_seconds and step_seconds != telemetry.step_seconds else telemetry
