"""A table as somebody kept it to Telemetry: columns, time, duplicates, grid and gaps, every change counted."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.telemetry.grid import count_repair, step_seconds_of, to_grid
from support.telemetry.schema import DERIVED, METRICS, Repair, Telemetry

__all__ = ["tidy"]

TIME_NAMES = (
    "timestamp",
    "@timestamp",
    "time",
    "datetime",
    "date_time",
    "date",
    "ds",
    "ts",
    "period",
    "start_time",
    "starttime",
)
RESOURCE_NAMES = (
    "resource_id",
    "resource",
    "server_id",
    "server",
    "host",
    "hostname",
    "instance",
    "instance_id",
    "vm",
    "pod",
    "service",
)
SYNONYMS = {
    "requests": ("count", "hits", "request_count", "invocations", "demand", "arrivals", "load"),
    "cpu_utilization": ("cpu", "cpu_usage", "cpu_percent", "cpu_p95", "cpuutilization"),
    "memory_utilization": ("memory", "mem", "memory_usage", "mem_percent", "mem_p95"),
    "disk_utilization": ("disk", "disk_usage", "disk_p95"),
    "queue_length": ("queue", "backlog"),
    "cost_usd": ("cost",),
}
RATES = ("rps", "requests_per_second", "req_s", "qps", "requests_per_s")
MIN_ROWS = 10


def tidy(
    table: pd.DataFrame,
    *,
    source: str,
    provenance: str,
    timestamp_column: str | None = None,
    value_column: str | None = None,
    resource_column: str | None = None,
    metric: str | None = None,
    timezone: str | None = None,
    duplicates: Literal["refuse", "sum", "mean", "first"] = "refuse",
    fill: Literal["interpolate", "zero"] = "interpolate",
    max_gap_seconds: float = 3600.0,
) -> Telemetry:
    """Turn `table` into Telemetry on a regular grid; what is guessed, moved, dropped or filled is a Repair.

    timezone: of timestamps that carry none (default UTC). duplicates: what to do with two values at one time.
    fill: missing intervals are interpolated if the gap is at most `max_gap_seconds`, else taken from the same time of
    the nearest day (both flagged quality_flag = 1), or are zero. Raises SchemaError, TooShortError.
    """
    repairs = [Repair("rows read", len(table))]
    time_name = _time_column(table, timestamp_column, source)
    values = _value_columns(table, value_column, metric, time_name, source, repairs)
    resource_name = _resource_column(table, resource_column, source)
    stamps = _timestamps(table[time_name], timezone, source, repairs)
    ids = table[resource_name].astype(str) if resource_name else pd.Series("demand", index=table.index)
    frame = pd.DataFrame({"resource_id": ids, "timestamp": stamps})
    for name, column in values.items():
        frame[name] = _numbers(table[column], name, column, source, repairs)
    usable = frame["timestamp"].notna() & frame[list(values)].notna().any(axis=1)
    count_repair(repairs, "rows without a usable time or value dropped", int((~usable).sum()))
    frame = frame[usable]
    if len(frame) < MIN_ROWS:
        raise TooShortError(
            f"{source}: {len(frame)} usable rows; at least {MIN_ROWS} are needed, some days for a forecast."
        )
    frame = _unique(frame, duplicates, source, repairs)
    step = step_seconds_of(frame, source)
    pieces = [to_grid(part, step, fill, max_gap_seconds, source, repairs) for _, part in frame.groupby("resource_id")]
    observations = pd.concat(pieces).sort_index()
    for rate in [c for c in values if c in RATES]:
        observations["requests"] = observations.pop(rate) * step
        repairs.append(
            Repair(f"'{values[rate]}' taken as requests/s and multiplied by the step of {step:g} s", len(observations))
        )
    merged: dict[str, int] = {}
    for repair in repairs:
        merged[repair.what] = merged.get(repair.what, 0) + repair.count
    known = tuple(Repair(what, count) for what, count in merged.items())
    resources = pd.DataFrame(index=pd.Index(sorted(frame["resource_id"].unique()), name="resource_id"))
    return Telemetry(observations, float(step), source, provenance, False, resources, known)


def _time_column(table: pd.DataFrame, wanted: str | None, source: str) -> str:
    columns = [str(c) for c in table.columns]
    if wanted is not None:
        if wanted not in columns:
            raise SchemaError(f"{source}: no column {wanted!r}; there are {columns}.")
        return wanted
    by_name = {c.lower(): c for c in columns}
    for name in TIME_NAMES:
        if name in by_name:
            return by_name[name]
    parsed = [c for c in columns if not pd.api.types.is_numeric_dtype(table[c]) and _looks_like_time(table[c])]
    if len(parsed) == 1:
        return parsed[0]
    found = (
        f"more than one column holds dates ({parsed})" if parsed else f"no column holds timestamps (columns: {columns})"
    )
    raise SchemaError(f"{source}: {found}. Name it with timestamp_column.")


def _looks_like_time(column: pd.Series) -> bool:
    head = column.dropna().head(50)
    return bool(len(head)) and bool(
        pd.to_datetime(head, errors="coerce", utc=True, format="mixed").notna().mean() > 0.9
    )


def _canonical(name: str) -> str | None:
    low = name.lower()
    if low in METRICS or low in RATES:
        return low
    return next((metric for metric, names in SYNONYMS.items() if low in names), None)


def _value_columns(
    table: pd.DataFrame, wanted: str | None, metric: str | None, time_name: str, source: str, repairs: list[Repair]
) -> dict[str, str]:
    """Canonical metric -> column of the table."""
    columns = [str(c) for c in table.columns if c != time_name]
    if metric is not None and metric not in METRICS:
        raise SchemaError(
            f"{source}: no metric {metric!r}. Use one of {', '.join(m for m in METRICS if m not in DERIVED)}."
        )
    if wanted is not None:
        if wanted not in columns:
            raise SchemaError(f"{source}: no column {wanted!r}; there are {columns}.")
        return {metric or _canonical(wanted) or "requests": wanted}
    known: dict[str, str] = {}
    for column in columns:
        name = _canonical(column)
        if name and name not in known and _is_numeric(table[column]):
            known[name] = column
    if metric is None and known:
        return known
    numeric = [c for c in columns if _is_numeric(table[c]) and c.lower() not in RESOURCE_NAMES]
    if not numeric:
        raise SchemaError(
            f"{source}: no numeric column beside {time_name!r} (columns: {columns}). Name one with value_column."
        )
    chosen = known[metric] if metric in known else numeric[0]
    repairs.append(Repair(f"column '{chosen}' taken as {metric or 'requests'}", len(table)))
    return {metric or "requests": chosen}


def _is_numeric(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return False
    return bool(pd.to_numeric(column, errors="coerce").notna().sum() >= max(1, 0.5 * column.notna().sum()))


def _resource_column(table: pd.DataFrame, wanted: str | None, source: str) -> str | None:
    if wanted is not None:
        if wanted not in table.columns:
            raise SchemaError(f"{source}: no column {wanted!r}; there are {list(table.columns)}.")
        return wanted
    by_name = {str(c).lower(): str(c) for c in table.columns}
    return next((by_name[name] for name in RESOURCE_NAMES if name in by_name), None)


def _timestamps(column: pd.Series, timezone: str | None, source: str, repairs: list[Repair]) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        size = float(column.abs().median())
        unit = next((u for u, top in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if size < top), "ns")
        if size < 1e8:
            raise SchemaError(
                f"{source}: {column.name!r} holds numbers around {size:g}, which are no epoch times. Name the timestamp_column."
            )
        repairs.append(Repair(f"timestamps read as epoch {unit} in UTC", len(column)))
        return pd.to_datetime(column, unit=unit, utc=True, errors="coerce").dt.as_unit("ns")
    text = column.astype(str).str.strip() if column.dtype == object else column
    aware = (
        getattr(column.dt, "tz", None) is not None
        if pd.api.types.is_datetime64_any_dtype(column)
        else bool(text.head(100).str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$", regex=True).mean() > 0.5)
    )
    try:
        parsed = pd.to_datetime(text, utc=True, errors="raise")
    except (ValueError, TypeError, OverflowError):
        parsed = pd.to_datetime(text, utc=True, errors="coerce", format="mixed")
    bad = parsed.isna()
    if bad.mean() > 0.01:
        where = int(np.flatnonzero(bad.to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {column.name!r} is no timestamp: {str(column.iloc[where])[:40]!r} ({int(bad.sum())} such rows)."
        )
    count_repair(repairs, "timestamps that could not be read", int(bad.sum()))
    if not aware:
        if timezone is None:
            repairs.append(Repair("timestamps carry no timezone, taken as UTC", len(column)))
        else:
            try:
                local = parsed.dt.tz_localize(None).dt.tz_localize(
                    timezone, ambiguous="NaT", nonexistent="shift_forward"
                )
            except (KeyError, ValueError, OSError):
                raise SchemaError(f"{source}: no timezone {timezone!r}. Use a name such as Europe/Paris.") from None
            count_repair(
                repairs, "timestamps in the hour that the clock repeats, dropped", int(local.isna().sum() - bad.sum())
            )
            repairs.append(Repair(f"timestamps converted from {timezone} to UTC", len(column)))
            parsed = local.dt.tz_convert("UTC")
    return parsed.dt.as_unit("ns")


def _numbers(column: pd.Series, metric: str, name: str, source: str, repairs: list[Repair]) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    garbage = numbers.isna() & column.notna()
    if garbage.mean() > 0.01:
        where = int(np.flatnonzero(garbage.to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {name!r} is no number: {str(column.iloc[where])[:40]!r} ({int(garbage.sum())} such rows)."
        )
    count_repair(repairs, f"values of '{name}' that are no numbers, treated as missing", int(garbage.sum()))
    if (numbers < 0).any():
        where = int(np.flatnonzero((numbers < 0).to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {name!r} is negative ({numbers.iloc[where]:g}); {metric} cannot be. Remove or mend it."
        )
    return numbers


def _unique(frame: pd.DataFrame, duplicates: str, source: str, repairs: list[Repair]) -> pd.DataFrame:
    keys = ["resource_id", "timestamp"]
    once = frame.drop_duplicates()
    count_repair(repairs, "rows that repeat another row exactly, dropped", len(frame) - len(once))
    moved = int((once.groupby("resource_id")["timestamp"].diff() < pd.Timedelta(0)).sum())
    count_repair(repairs, "places where time ran backwards; rows sorted", moved)
    once = once.sort_values(keys, kind="stable")
    again = once.duplicated(keys, keep=False)
    if again.any():
        first = once[again].iloc[0]
        if duplicates == "refuse":
            raise SchemaError(
                f"{source}: {first['timestamp']} occurs more than once with different values ({int(again.sum())} rows in all). "
                "Say what they mean with duplicates='sum', 'mean' or 'first', or name the resource_column."
            )
        count_repair(repairs, f"rows that share a timestamp combined by {duplicates}", int(again.sum()))
        once = once.groupby(keys, as_index=False).agg(duplicates)
    return once
